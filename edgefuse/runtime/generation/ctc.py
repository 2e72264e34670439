"""Labels of frames as text, by connectionist temporal classification (CTC; Graves et al. 2006), chunk by chunk.

Both ways take the frames of one recording in chunks of any sizes, and give what they would give for all at once. The
tokens of a text are those of its frames with repeats told once and blanks left out.
"""

from __future__ import annotations

from itertools import takewhile

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.outputs import TokensOutput
from edgefuse.errors import InputError
from edgefuse.runtime.generation.step import Logits, greatest, highest, log_probabilities

_FRAMES = "the frames"


class BestPath:
    """The most probable label of each frame: the best path, which is cheap, and not always the best text.

    Args:
        output: of the model, with a blank.

    Raises:
        InputError: if it has none.
    """

    def __init__(self, output: TokensOutput) -> None:
        self._output = output
        self._frames = _Frames(output)
        self._before = self._frames.blank
        self._ids: list[int] = []

    def feed(self, logits: Logits) -> None:
        """Take the next frames, float32 [frames, vocabulary].

        Raises:
            InputError: if they have another shape, or are not finite.
        """
        highest(self._frames.checked(logits), _FRAMES)
        for best in logits.argmax(axis=1).tolist():
            if best not in (self._before, self._frames.blank):
                self._ids.append(best)
            self._before = best

    @property
    def text(self) -> str:
        """What the frames so far spell."""
        return self._output.spelled(self._ids)


class PrefixBeamSearch:
    """The most probable text: prefix beam search (Graves 2012, 7.5; Hannun et al. 2014), without a language model.

    The probability of a text is summed over all paths that spell it, in the log domain. With fewer beams than there
    are texts, it is a lower bound.

    Args:
        output: of the model, with a blank.
        num_beams: texts that are kept after each frame.

    Raises:
        InputError: if it has no blank, or there are no beams.
    """

    def __init__(self, output: TokensOutput, num_beams: int = 8) -> None:
        if num_beams < 1:
            raise InputError("a beam search has no beams", got=num_beams, expected="1 or more")
        self._output = output
        self._frames = _Frames(output)
        self._num_beams = num_beams
        self._settled: list[int] = []  # what all beams begin with; they hold the tokens from there on
        self._beams: list[tuple[int, ...]] = [()]  # the best first
        self._ends = np.array([[0.0, -np.inf]])  # of each, log probabilities: of paths that end with a blank, or not

    def feed(self, logits: Logits) -> None:
        """Take the next frames, float32 [frames, vocabulary].

        Raises:
            InputError: if they have another shape, or are not finite.
        """
        for logprobs in log_probabilities(self._frames.checked(logits), _FRAMES):
            self._extend(logprobs)
        same = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*self._beams, strict=False))
        shared = sum(1 for _ in same) - 1  # the last one stays: its repeats are told apart
        if shared > 0:
            self._settled += self._beams[0][:shared]
            self._beams = [beam[shared:] for beam in self._beams]

    @property
    def text(self) -> str:
        """The most probable text of the frames so far."""
        return self._output.spelled([*self._settled, *self._beams[0]])

    @property
    def logprob(self) -> float:
        """The logarithm of its probability."""
        return float(np.logaddexp(*self._ends[0]))

    def _extend(self, logprobs: npt.NDArray[np.float64]) -> None:
        """Take one frame: each beam stays as it is, or is continued by a token."""
        beams, blank = self._beams, self._frames.blank
        either = np.logaddexp(self._ends[:, 0], self._ends[:, 1])
        continued = either[:, None] + logprobs
        continued[:, blank] = -np.inf
        stays = np.full_like(self._ends, -np.inf)
        stays[:, 0] = either + logprobs[blank]
        index = {beam: row for row, beam in enumerate(beams)}
        for row, beam in enumerate(beams):
            if beam:  # a token is told twice only with a blank in between
                continued[row, beam[-1]] = self._ends[row, 0] + logprobs[beam[-1]]
                stays[row, 1] = self._ends[row, 1] + logprobs[beam[-1]]
        for row, beam in enumerate(beams):
            if beam and (parent := index.get(beam[:-1])) is not None:  # continued, it is another one that is kept
                stays[row, 1] = np.logaddexp(stays[row, 1], continued[parent, beam[-1]])
                continued[parent, beam[-1]] = -np.inf
        self._keep(stays, continued)

    def _keep(self, stays: npt.NDArray[np.float64], continued: npt.NDArray[np.float64]) -> None:
        """Keep the best of beams that stay, [beams, 2], and are continued, [beams, vocabulary]."""
        kept = len(stays)
        scores = np.concatenate([np.logaddexp(stays[:, 0], stays[:, 1]), continued.reshape(-1)])
        beams, ends = [], []
        for i in greatest(scores, self._num_beams):
            if scores[i] == -np.inf:  # ruled out, or another one
                break
            if i < kept:
                beams.append(self._beams[i])
                ends.append(stays[i])
            else:
                row, token = divmod(i - kept, continued.shape[1])
                beams.append((*self._beams[row], token))
                ends.append(np.array([-np.inf, scores[i]]))
        self._beams, self._ends = beams, np.stack(ends)


class _Frames:
    """What frames of an output must be."""

    def __init__(self, output: TokensOutput) -> None:
        if output.blank is None or not output.has(output.blank):
            raise InputError(
                f"the output '{output.name}' is not one of frame labels",
                got="no blank" if output.blank is None else f"the blank {output.blank} of {len(output.labels)} labels",
                expected="the index of the label that spells nothing",
                fix="name it as `blank` in its TokensOutput, if the model was trained with CTC",
            )
        self.blank = output.blank
        self._size = len(output.labels)

    def checked(self, logits: Logits) -> Logits:
        if logits.ndim != 2 or logits.shape[1] != self._size:
            raise InputError(
                "these are no frames", got=f"the shape {list(logits.shape)}", expected=f"[frames, {self._size}]"
            )
        return logits
