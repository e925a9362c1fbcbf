"""Control tokens of model families that stand in a text: a model would take them for the end of a turn or for an image."""

import re
from collections.abc import Iterable

_CONTROL = re.compile(
    r"<(?=\|\w+\|>|(?:image|video|bos|eos|pad|s|/s|img|/img|IMG_CONTEXT|start_of_turn|end_of_turn|start_of_image|end_of_image"
    r"|image_soft_token|end_of_utterance|fake_token_around_image|global-img|row_\d+_col_\d+)>)"
)


def as_text(text: str) -> str:
    """`text` with a blank inside each control token (`<|im_end|>`, `<image>`), so that every tokenizer reads it as text.

    It is for text of others: reports, conversations, replies of models. Prompts of a prompt set keep what they say.
    """
    return _CONTROL.sub("< ", text) if "<" in text else text


def found_in(texts: Iterable[str]) -> bool:
    """Whether a text has a control token."""
    return any("<" in text and _CONTROL.search(text) for text in texts)
