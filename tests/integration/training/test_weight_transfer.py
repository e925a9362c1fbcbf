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
    client = weight_transfer.transfer_client(posts, 3, 2)
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 7})
    assert posts.sent[0] == ("/init_weight_transfer_engine",)
    assert [body["init_info"]["rank_offset"] for body in posts.sent[1]] == [1, 3, 5]
    client.start_weight_update()
    assert posts.sent == (("/start_weight_update",), [None])
