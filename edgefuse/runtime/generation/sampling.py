"""The distribution that a token is drawn from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgefuse.runtime.generation.config import GenerationConfig


def distribution(logprobs: npt.NDArray[np.float64], config: GenerationConfig) -> npt.NDArray[np.float64]:
    """Return the probabilities that a token is drawn with, float64 [vocabulary].

    The temperature comes first, then `top_k`, then `top_p`, as in Hugging Face's transformers; equals of the last of
    the k are kept.
    """
    with np.errstate(over="ignore"):  # a temperature near 0 leaves the best alone
        scores = (logprobs - logprobs.max()) / config.temperature
    if config.top_k is not None and config.top_k < scores.size:
        scores[scores < np.partition(scores, -config.top_k)[-config.top_k]] = -np.inf
    chances = np.exp(scores)
    chances /= chances.sum()
    if config.top_p < 1:
        rising = np.argsort(chances, kind="stable")
        left_out = np.cumsum(chances[rising]) <= 1 - config.top_p
        left_out[-1] = False
        chances[rising[left_out]] = 0
        chances /= chances.sum()
    return np.asarray(chances)
