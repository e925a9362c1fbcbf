"""vLLM's own client of weight transfer."""

from typing import Any

import pytest


def test_every_server_gets_ranks_of_its_own_in_a_transfer():
    pytest.importorskip("vllm")
    from diagcot.training.rl import weight_transfer

    class Posts:
        servers = (1, 2, 3)

        def post(self, *paths, bodies):
            self.sent = paths, bodies

    posts: Any = Posts()
    client = weight_transfer.transfer_client(posts, 3, 2, keep_going=False)
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 7})
    assert posts.sent[0] == ("/init_weight_transfer_engine",)
    assert [body["init_info"]["rank_offset"] for body in posts.sent[1]] == [1, 3, 5]
    client.start_weight_update()
    assert posts.sent == (("/start_weight_update",), [None])


def test_an_adapter_is_sent_as_weights_of_its_base():
    pytest.importorskip("vllm")
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from diagcot.training.config.settings import LoraSettings
    from diagcot.training.models import lora
    from diagcot.training.rl import weight_transfer

    torch.manual_seed(0)
    plain = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1,
        )
    )  # fmt: skip
    names = {name: (parameter.dtype, tuple(parameter.shape)) for name, parameter in plain.named_parameters()}
    network: Any = torch.nn.ModuleDict({"language_model": plain})
    network.prepare_inputs_for_generation, network.config = None, Qwen2Config()
    network.config.model_type = "qwen2_vl"
    network = lora.add_adapter(network, LoraSettings(rank=2))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    source = weight_transfer.weight_source(network)
    assert {meta.name: (meta.dtype, tuple(meta.shape)) for meta in source.metadata()} == {
        f"language_model.{name}": value for name, value in names.items()
    }
    sent = {name: value.clone() for name, value in source}
    merged = dict(network.merge_and_unload().named_parameters())
    assert sent.keys() == merged.keys() and any("q_proj" in name for name in sent)
    for name, value in merged.items():
        torch.testing.assert_close(sent[name], value.data, atol=1e-6, rtol=1e-5)
