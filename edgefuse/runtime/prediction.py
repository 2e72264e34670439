"""What a pipeline answers: the outputs, and a typed view of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput, LabelsOutput, Output, TokensOutput, ValuesOutput
from edgefuse.errors import InputError
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.generation.ctc import PrefixBeamSearch

VIEWS: Mapping[type, str] = {LabelsOutput: "labels", ValuesOutput: "values", TokensOutput: "text"}
"""The view of a prediction that shows an output of a kind, classes apart."""
_O = TypeVar("_O", ClassOutput, LabelsOutput, EmbeddingOutput, ValuesOutput, TokensOutput)


@dataclass(frozen=True)
class Contribution:
    """What something that was given added to an answer; each field has the outputs of its kind by name.

    An output has no entry if it is not finite, with or without what is left out, or then not given, or of another size.

    Attributes:
        probability: of outputs of classes: by how much more probable it made the class that is predicted with all.
        log_odds: of the same: by how much it raised log(p / (1 - p)), in nats; no entry where a probability is 0 or 1.
        values: of plain numbers and of several labels: the difference of each number, or of each label's probability.
        distance: of all other outputs: the Euclidean distance between the two.
    """

    probability: Mapping[str, float]
    log_odds: Mapping[str, float]
    values: Mapping[str, Mapping[str, float]]
    distance: Mapping[str, float]


@dataclass(frozen=True)
class Contributions:
    """What was added to an answer.

    `each` does not sum to `together`, in general: the sum is smaller where modalities tell the same (without one of
    them the others still do), and larger where one is of use only beside another. What is over is the interaction.

    Attributes:
        each: by optional modality that was given. A required one is never left out, and has none.
        together: what all of these added: the answer with them minus that without any of them. Where no required
            modality is left, that is what the fusion says to nothing at all: a number to compare with, and no answer.
    """

    each: Mapping[str, Contribution]
    together: Contribution


@dataclass(frozen=True)
class Prediction:
    """The outputs of a model for one set of inputs.

    `label`, `score`, `scores` and `top` view the first output of classes, `labels` the first of several labels,
    `embedding` the first embedding, `values` the first plain numbers, `text` the first tokens; each raises `InputError`
    if the model has no such output, or if it is not finite: inputs that overflow inside the model give no label, but
    `outputs` can still be looked at. They are views of one item: of outputs that hold several, made by hand, they raise
    `InputError`, too.

    Attributes:
        outputs: float32 arrays with the batch first, by output name.
        spec: what the model says about its outputs.
        contributions: what each modality added to them, of `Pipeline.explain`.
    """

    outputs: Mapping[str, Array]
    spec: tuple[Output, ...]
    contributions: Contributions | None = None

    @property
    def finite(self) -> bool:
        """Whether all outputs are numbers. A class at minus infinity is one: its probability is 0."""
        given = ((output, self._array(output)) for output in self.spec if output.name in self.outputs)
        return all(is_finite(output, value) for output, value in given)

    def views(self) -> dict[str, object]:
        """Return the typed views that this model's outputs have, by name, as JSON can say them; not embeddings."""
        given = {type(output) for output in self.spec if output.name in self.outputs}
        shown: dict[str, object] = {}
        if ClassOutput in given:
            shown |= {"label": self.label, "score": self.score, "scores": self.scores}
        return shown | {view: getattr(self, view) for kind, view in VIEWS.items() if kind in given}

    @property
    def label(self) -> str:
        """The most probable class."""
        return self._classes.labels[int(self._probabilities.argmax())]

    @property
    def score(self) -> float:
        """The probability of the most probable class."""
        return float(self._probabilities.max())

    @property
    def scores(self) -> dict[str, float]:
        """The probability of every class (softmax), in the order of the labels."""
        return dict(zip(self._classes.labels, self._probabilities.tolist(), strict=True))

    def top(self, k: int) -> list[tuple[str, float]]:
        """Return the k most probable classes with their probabilities, the best first."""
        if k < 1:
            raise InputError("top(k) needs a positive number of classes", got=k, expected="1 or more")
        best = np.argsort(-self._probabilities, kind="stable")[:k]
        return [(self._classes.labels[i], float(self._probabilities[i])) for i in best]

    @property
    def labels(self) -> dict[str, float]:
        """The labels that are above the threshold, with their probabilities."""
        output = self._first(LabelsOutput, "several labels")
        told = zip(output.labels, chances(self._item(output)).tolist(), strict=True)
        return {label: chance for label, chance in told if chance > output.threshold}

    @property
    def text(self) -> str:
        """What the most probable tokens spell."""
        output = self._first(TokensOutput, "tokens")
        return output.text(self._item(output).argmax(axis=1).tolist())

    def transcript(self, num_beams: int = 8) -> str:
        """Return the most probable text that labels of frames spell, by prefix beam search; `text` is the best path.

        Args:
            num_beams: texts that are kept after each frame.

        Raises:
            InputError: if the first tokens have no blank, or are not finite.
        """
        output = self._first(TokensOutput, "tokens")
        search = PrefixBeamSearch(output, num_beams)
        search.feed(self._item(output))
        return search.text

    @property
    def embedding(self) -> npt.NDArray[np.float32]:
        """The embedding, float32 [size]."""
        return self._item(self._first(EmbeddingOutput, "embedding"))

    @property
    def values(self) -> dict[str, float]:
        """The plain numbers by name."""
        output = self._first(ValuesOutput, "values")
        return dict(zip(output.labels, self._item(output).tolist(), strict=True))

    @cached_property
    def _classes(self) -> ClassOutput:
        return self._first(ClassOutput, "classes")

    @cached_property
    def _probabilities(self) -> npt.NDArray[np.float64]:
        logits = self._item(self._classes).astype(np.float64)  # finite, or some of them minus infinity
        powers = np.exp(logits - logits.max())
        return np.asarray(powers / powers.sum())

    def _item(self, output: Output) -> npt.NDArray[np.float32]:
        """Return the one item of an output, without the batch."""
        values = self._array(output)
        if values.ndim != 1 + len(output.shape) or len(values) != 1:
            raise InputError(
                f"the answer '{output.name}' is not that of one item",
                got=f"the shape {list(values.shape)}",
                expected="[1, size]" if len(output.shape) == 1 else f"{[1, *output.shape]}",
                fix="make one prediction of each item, as pipeline.batch does",
            )
        value: npt.NDArray[np.float32] = values[0]
        if not is_finite(output, value):
            raise InputError(
                f"the answer '{output.name}' is not finite",
                got=f"{np.count_nonzero(~np.isfinite(value))} of {value.size} numbers NaN or infinite",
                expected="numbers",
                fix="scale the inputs as in training: what is too large overflows inside the model",
            )
        return value

    def _array(self, output: Output) -> npt.NDArray[np.float32]:
        return np.asarray(self.outputs[output.name], np.float32)

    def _first(self, kind: type[_O], wanted: str) -> _O:
        for output in self.spec:
            if isinstance(output, kind) and output.name in self.outputs:  # not that of an encoder that was silent
                return output
        raise InputError(
            f"this model does not predict {wanted}",
            got=", ".join(f"'{o.name}' ({type(o).__name__.removesuffix('Output').lower()})" for o in self.spec),
            fix="read prediction.outputs, or the view that fits",
        )


def chances(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the probability of each of several labels: the logistic function of its logit."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -500, 500))))


def is_finite(output: Output, value: npt.NDArray[np.floating]) -> bool:
    """Tell whether an output is numbers. A class at minus infinity is one: its probability is 0."""
    if isinstance(output, ClassOutput):
        best = value.max(axis=-1)  # NaN comes through; a class that is ruled out by minus infinity does not
        return bool(np.isfinite(best).all())
    return bool(np.isfinite(value).all())
