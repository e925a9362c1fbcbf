"""What we add to vLLM's worker, which is in the server's process (`--worker-extension-cls`)."""

from collections import Counter
from typing import Any


class WorkerExtension:
    """Methods that vLLM's worker gets, for calls by the route `/collective_rpc`."""

    model_runner: Any  # the worker's

    def repack_tied_head(self) -> None:
        """Let the output layer of a model with tied embeddings follow new weights.

        vLLM loads the one matrix into the input embedding, whose memory the output layer shares. On a CPU the output layer
        multiplies by a copy in a layout of its own, which vLLM makes again only for layers that the new weights name
        (`UnquantizedEmbeddingMethod.process_weights_after_loading` in vllm/model_executor/layers/vocab_parallel_embedding.py).
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        model = self.model_runner.get_model()
        owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
        for module in model.modules():
            if isinstance(module, ParallelLMHead) and owners[id(module.weight)] > 1:
                module.quant_method.process_weights_after_loading(module)
