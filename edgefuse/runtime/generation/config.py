"""How tokens are chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from edgefuse.errors import InputError, shown

_MAX_PENALTY = 10
_MAX_BEAMS = 1024
"""Each has its state; without a bound, a few steps with as many beams as there are texts take all memory."""
_MOST_SHOWN = 80


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How tokens are chosen: greedily, from several beams, or drawn.

    Names and meanings are those of `GenerationConfig` of Hugging Face's transformers. Unlike there, what has no effect
    is refused, and a draw is from the model's own distribution unless `top_k` or `top_p` says otherwise.

    Attributes:
        max_new_tokens: at most so many, the end token included; as many as the model can if None.
        num_beams: hypotheses that are kept, up to 1,024; 1 is greedy. Each costs a run of the decoder per token.
        length_penalty: with beams: the power of its length that the sum of a hypothesis' log probabilities is divided
            by. More than 0 favours long ones.
        early_stopping: with beams: true ends the search when as many hypotheses as beams are finished, false when
            the best running one is worse than those by its present length, "never" when by no length it can be better.
        num_return_sequences: with beams: the hypotheses that `beam_search` returns, the best first.
        do_sample: draw each token instead of taking the most probable one.
        temperature: of a draw: logits are divided by it.
        top_k: of a draw: from the k most probable tokens only.
        top_p: of a draw: from the fewest tokens whose probabilities sum to at least it (Holtzman et al. 2020).
        seed: of draws: the same one draws the same tokens. By chance if None.

    Raises:
        InputError: if a value is out of range, or has no effect.
    """

    max_new_tokens: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_beams", "num_return_sequences"):
            value = getattr(self, name)
            self._check(name, _is_whole(value, 1) and value <= _MAX_BEAMS, f"an int from 1 to {_MAX_BEAMS}")
        for name, least in (("max_new_tokens", 1), ("top_k", 1), ("seed", 0)):
            value = getattr(self, name)
            self._check(name, value is None or _is_whole(value, least), f"an int of {least} or more, or None")
        self._check("do_sample", isinstance(self.do_sample, bool), "true or false")
        stopping = self.early_stopping
        self._check("early_stopping", isinstance(stopping, bool) or stopping == "never", 'true, false or "never"')
        bounded = _is_number(self.length_penalty) and abs(self.length_penalty) <= _MAX_PENALTY
        self._check("length_penalty", bounded, f"an int or a float from {-_MAX_PENALTY} to {_MAX_PENALTY}")
        self._check("temperature", _is_number(self.temperature) and self.temperature > 0, "an int or a float above 0")
        self._check("top_p", _is_number(self.top_p) and 0 < self.top_p <= 1, "an int or a float above 0 and at most 1")
        most = self.num_return_sequences <= self.num_beams
        self._check("num_return_sequences", most, f"at most num_beams, {self.num_beams}")
        if self.do_sample:
            self._refuse("num_beams", "do_sample: tokens are drawn for one sequence")
        else:
            for name in ("temperature", "top_k", "top_p", "seed"):
                self._refuse(name, "no do_sample: nothing is drawn")
        if self.num_beams == 1:
            for name in ("length_penalty", "early_stopping"):
                self._refuse(name, "one beam: there is nothing to compare")

    def check_single(self) -> None:
        """Refuse to make several sequences where tokens come one after the other.

        Raises:
            InputError: if `num_return_sequences` is above 1.
        """
        if self.num_return_sequences > 1:
            raise InputError(
                "num_return_sequences has no effect where tokens come one after the other, which are those of the best",
                got=self.num_return_sequences,
                fix="leave it out, or call `beam_search`",
            )

    def limit(self, steps: int) -> int:
        """Return how many tokens are generated at most by a model that can generate `steps`.

        Raises:
            InputError: if `max_new_tokens` is more than that.
        """
        self._check("max_new_tokens", (self.max_new_tokens or 1) <= steps, f"at most {steps}, what the model can")
        return self.max_new_tokens or steps

    def _check(self, name: str, good: bool, expected: str) -> None:
        if not good:
            value = getattr(self, name)
            got = shown(value if isinstance(value, int) else repr(value), _MOST_SHOWN)
            raise InputError(f"{name} is out of range", got=got, expected=expected)

    def _refuse(self, name: str, beside: str) -> None:
        default = next(field.default for field in fields(self) if field.name == name)
        if getattr(self, name) != default:
            raise InputError(f"{name} has no effect with {beside}", got=getattr(self, name), fix=f"leave {name} out")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float is as large as
        return False
