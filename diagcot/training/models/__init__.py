"""Vision-language models: building, loading, freezing, adapters, tokenizer."""
