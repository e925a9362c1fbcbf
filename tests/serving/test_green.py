"""GREEN's stage on a real vLLM: a text-only Llama of a few thousand parameters in the layout of the published model."""

import dataclasses
import json
from contextlib import ExitStack

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from diagcot.evaluation.clinical import green
from diagcot.jobs import Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.tasks.predictions import Prediction
from tests.serving.conftest import SETTINGS

pytestmark = pytest.mark.heavy


def write_llama(root):
    folder = root / "green"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate(["<unk>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    made.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "prompt.txt").write_text("Compare {reference}\nwith {candidate}.\n")
    return folder


def row(number, answer):
    return Prediction(
        f"s{number}", f"p/{number}", "report", "mimic_cxr", "base", answer, answer, "no effusion", "stop", True, []
    )


def test_a_language_model_is_asked_as_its_authors_ask(tmp_path):
    folder = write_llama(tmp_path)
    predictions = tmp_path / "evaluate"
    predictions.mkdir()
    rows = [row(0, "an effusion of the left side"), row(1, ""), row(2, "clear")]
    (predictions / "base.report.0.jsonl").write_text("".join(json.dumps(one.row()) + "\n" for one in rows))
    server = SETTINGS.model_copy(update={"max_model_len": 512})
    settings = {"weights": str(tmp_path), "words": 3, "max_tokens": 16, "server": server.model_dump(mode="json")}
    ctx = context(tmp_path, settings, stage="green", inputs={"predictions": [str(predictions)]})
    with ExitStack() as stack:
        shared = green.Green(ctx, stack)
        request = dataclasses.replace(shared.request(rows[0]), return_token_ids=True)
        ((_, reply),) = shared.server().complete([request])
        tokenizer = AutoTokenizer.from_pretrained(folder)
        prompt = "Compare no effusion\nwith an effusion of.\n"
        text = f"<s><|user|>\n{prompt}</s>\n<|assistant|>\n</s>"
        assert reply.prompt_token_ids == tokenizer(text, add_special_tokens=False).input_ids
        assert reply.prompt_token_ids[0] == 1 and reply.prompt_token_ids[-1] == 2
        made = green.run(Unit("base.report.0"), shared, ctx)
    assert made.counts == {"scored": 3, "missing": 0, "failed": 0, "unread": 2}
    lines = [json.loads(line) for line in made.outputs[ctx.output / "base.report.0.jsonl"].read_text().splitlines()]
    assert [line["id"] for line in lines] == ["s0", "s1", "s2"]
    assert all(line["scores"] == {"green": 0.0} for line in lines)  # noise tells no findings


def test_without_its_folder_the_metric_is_missing_and_the_unit_done(tmp_path):
    predictions = tmp_path / "evaluate"
    predictions.mkdir()
    (predictions / "base.report.0.jsonl").write_text(json.dumps(row(0, "clear").row()) + "\n")
    ctx = context(tmp_path, {"weights": str(tmp_path)}, stage="green", inputs={"predictions": [str(predictions)]})
    assert run_unit(green, Unit("base.report.0"), ctx).counts == {"scored": 1, "missing": 1, "failed": 0, "unread": 0}
    assert json.loads((ctx.output / "base.report.0.jsonl").read_text())["scores"] == {}
    told = json.loads((ctx.output / "base.report.0.missing.json").read_text())
    assert told["readers"] == ["green"] and "no folder" in told["missing"]["green"]
