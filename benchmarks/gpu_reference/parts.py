"""What each process of `benchmarks/gpu.py` does; each returns what goes into the record."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from benchmarks.gpu_reference import card as cards
from benchmarks.gpu_reference import engines
from benchmarks.gpu_reference.card import Card, Place
from benchmarks.gpu_reference.measuring import Budget, Maker, Row, answers_of, fill, measure, reason
from benchmarks.gpu_reference.models import SUBJECTS, Subject
from benchmarks.gpu_reference.onnx_file import export
from benchmarks.gpu_reference.variants import BASE, FAILURES, WANTED, Precision, Variant, forward

_LONG_S = 60.0
"""A compile or an engine is not begun with less time left."""


@dataclass(frozen=True)
class Request:
    """What the parent asks for.

    Attributes:
        part: `probe`, or the name of one of `PARTS`.
        model: the reference model.
        device: `cuda` or `cpu`.
        seconds: that the process may take.
        rounds: of interleaved timing per batch.
        max_batch: the largest batch to try.
        batch: the filled one, where another part has found it.
        without: ways of torch that are left out, with the reason.
    """

    part: str
    model: str
    device: str
    seconds: float
    rounds: int
    max_batch: int
    batch: int | None = None
    without: str = ""

    def budget(self) -> Budget:
        """Return how much is measured, from now on."""
        return Budget(self.rounds, self.seconds / 8, self.max_batch, time.monotonic() + 0.85 * self.seconds)


Keep: TypeAlias = Callable[[dict[str, Any]], None]
"""Takes what a part has so far, in case that it does not come to its end."""


def probe(request: Request, _: Keep) -> dict[str, Any]:
    """Say what is here."""
    available = torch.cuda.is_available()
    found: dict[str, Any] = {"versions": cards.versions(), "clocks": cards.clocks(), "available": available}
    if available or request.device == "cpu":
        found["device"] = Card(request.device).facts()
    return found


def torch_part(request: Request, keep: Keep) -> dict[str, Any]:
    """Measure a model in torch, at batch 1 and at the batch that fills the card."""
    card, subject, budget = Card(request.device), SUBJECTS[request.model](), request.budget()
    parameters = sum(parameter.numel() for parameter in subject.network.parameters())
    found: dict[str, Any] = {"name": subject.name, "weights": subject.weights, "parameters": parameters}
    found |= {"filled": None, "rows": []}
    wanted = {one.name: (one.precision, _maker(one, subject, request, budget)) for one in WANTED[subject.name]}
    with torch.inference_mode():
        answers = answers_of(subject)
        found["filled"] = fill(card, subject, budget)
        for batch in dict.fromkeys((1, found["filled"]["batch"])):
            found["rows"] += measure(Place(card, subject, batch), subject, wanted, budget, answers)
            keep(found)
            card.forget()
    return found


def _maker(variant: Variant, subject: Subject, request: Request, budget: Budget) -> Maker:
    def make(place: Place) -> Any:
        if variant.risky and request.without:
            raise RuntimeError(request.without)
        if variant.way == "torch.compile" and budget.left < _LONG_S and place.card.is_gpu:
            raise RuntimeError("the time was up before it was compiled")
        return forward(variant, subject, place)

    return make


def engine_part(request: Request, keep: Keep) -> dict[str, Any]:
    """Measure a model in TensorRT or ONNX Runtime, interleaved with eager float32, whose rows are not kept."""
    card, subject, budget = Card(request.device), SUBJECTS[request.model](), request.budget()
    title, makers = _engine(request.part, subject, card)
    rows: list[Row] = []
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        answers = answers_of(subject)
        shapes = [answer.shape[1:] for answer in answers]
        for batch in dict.fromkeys((1, request.batch or 1)):
            path = Path(folder, f"{subject.name}-{batch}.onnx")
            with torch.inference_mode(False), torch.no_grad():
                export(subject, batch, path)
            outputs = tuple(torch.Size((batch, *shape)) for shape in shapes)
            wanted: dict[str, tuple[Precision, Maker]] = {
                BASE.name: ("float32", _maker(BASE, subject, request, budget))
            }
            for precision, make in makers.items():
                wanted[f"{title} {precision}"] = (precision, partial(_made, make, path, outputs, budget))
            rows += measure(Place(card, subject, batch), subject, wanted, budget, answers)[1:]
            keep({"rows": rows})
            card.forget()
    return {"rows": rows}


def _made(make: Callable[..., Any], path: Path, shapes: Sequence[torch.Size], budget: Budget, place: Place) -> Any:
    if budget.left < 0:
        raise RuntimeError("the time was up before it was built")
    return make(path, place, shapes)


def _engine(part: str, subject: Subject, card: Card) -> tuple[str, dict[Precision, Callable[..., Any]]]:
    """Return the title of an engine and its makers by precision; what is not here raises when it is made."""
    if not card.is_gpu:
        raise RuntimeError(f"{part} runs on a GPU only")
    if part == "tensorrt":
        trt = engines.edition()
        title = f"{trt.__name__.partition('.')[0]} {trt.__version__}"
        one: Callable[..., Any] = lambda path, place, _, tf32: engines.tensorrt(path, place, tf32=tf32)  # noqa: E731
    else:
        ort = __import__("onnxruntime")
        title = f"onnxruntime {ort.__version__} CUDA"
        one = lambda path, place, shapes, tf32: engines.onnxruntime(path, place, tuple(shapes), tf32=tf32)  # noqa: E731
    return title, {"float32": partial(one, tf32=False), "tf32": partial(one, tf32=True)}


PARTS: dict[str, Callable[[Request, Keep], dict[str, Any]]] = {
    "probe": probe,
    "torch": torch_part,
    "tensorrt": engine_part,
    "onnxruntime": engine_part,
}


def run(request: Request, keep: Keep) -> dict[str, Any]:
    """Do a part; one that fails returns the reason under `error`."""
    warnings.simplefilter("ignore")  # of switches that newer versions of torch call old
    torch.manual_seed(0)
    if request.device == "cpu":
        torch.set_num_threads(1)
    try:
        return PARTS[request.part](request, keep)
    except FAILURES as error:
        return {"error": reason(error)}
