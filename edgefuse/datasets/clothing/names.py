"""What clothes are called, aloud and in writing, and the character tokenizer of what is written."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from edgefuse.datasets.digits import text

LABELS = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
"""In Fashion-MNIST's order."""

NAMES: tuple[tuple[str, ...], ...] = (
    ("t-shirt", "tee", "undershirt"),
    ("trousers", "pants", "jeans"),
    ("pullover", "sweater", "jumper"),
    ("dress", "gown", "frock"),
    ("coat", "overcoat", "parka"),
    ("sandals", "flip-flops", "slippers"),
    ("shirt", "blouse", "button-up"),
    ("sneakers", "trainers", "running shoes"),
    ("bag", "handbag", "purse"),
    ("ankle boots", "booties", "chelsea boots"),
)
"""Of each label: spoken, and written where a text names the thing."""

KINDS = ("top", "garment", "top", "garment", "garment", "footwear", "top", "footwear", "accessory", "footwear")
"""Of each label: written where a text is vague. Only a bag is one of its kind."""

_COLOURS = ("black", "white", "grey", "navy", "red", "green", "beige", "brown", "pink", "striped")
_WORDS = ("old", "new", "warm", "light", "soft", "plain", "cotton", "leather", "wool", "cheap")
_FORMS = (
    "{colour} {name}",
    "{name} in {colour}",
    "{word} {name}",
    "my {word} {name}",
    "{name}, {word}",
    "{colour} {word} {name}",
    "{name}",
)

MAX_LENGTH = 32
"""Tokens of a text, the first one, which stands for all of it, included."""

FIRST = "<cls>"


def write(label: int, rng: np.random.Generator, *, vague: float, mean_errors: float) -> str:
    """Describe a thing in a few words, as people do: sometimes vaguely, often with typing errors.

    Args:
        label: 0 to 9.
        rng: draws the words and the errors.
        vague: the fraction of texts that say only of what kind it is.
        mean_errors: typing errors per text.
    """
    name = KINDS[label] if rng.random() < vague else str(rng.choice(NAMES[label]))
    form, colour, word = (str(rng.choice(choices)) for choices in (_FORMS, _COLOURS, _WORDS))
    written = form.format(name=name, colour=colour, word=word)
    return text.misspell(written, int(rng.poisson(mean_errors)), rng).strip()[: MAX_LENGTH - 1] or name


def tokenizer() -> Tokenizer:
    """Build the tokenizer: that of `digits`, one token a character, with a first token before them (BERT's `[CLS]`)."""
    built = text.tokenizer()
    built.add_special_tokens([FIRST])
    built.post_processor = TemplateProcessing(single=f"{FIRST} $A", special_tokens=[(FIRST, built.token_to_id(FIRST))])
    return built


def vocabulary_size() -> int:
    """Return the number of tokens."""
    return text.vocabulary_size() + 1
