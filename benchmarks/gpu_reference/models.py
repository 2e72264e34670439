"""The reference models as plain torch modules, with weights and inputs that are in the repository.

`digits` has its trained weights. Most of `assistant`'s come from packages that are not at hand on a bare machine: its
weights are seeded, in the same shapes. Inputs are seeded noise in the ranges of real ones.
"""

from __future__ import annotations

import copy
import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
DISTINCT = 16
"""Different items; a larger batch repeats them."""
INPUTS = ("pixels", "samples", "ids", "length", "present")

_PACKAGES = ("edgefuse.models", "edgefuse.models.digits", "edgefuse.models.assistant")
_TYPES = {"F32": np.float32, "I64": np.int64, "I32": np.int32}


class Network(nn.Module):
    """A reference model as a function of tensors by position; parameters are named as in `FusionModel`.

    Args:
        encoders: by modality: image, audio, text.
        fusion: as `FusionModel` calls it.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], fusion: nn.Module) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(dict(encoders))
        self.fusion = fusion

    def front(self, pixels: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the frontends of picture and sound give."""
        image, audio = (self.encoders[name].get_submodule("frontend") for name in ("image", "audio"))
        return image(pixels), audio(samples)

    def rest(self, image: Tensor, audio: Tensor, ids: Tensor, length: Tensor, present: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for what `front` gave.

        Args:
            image: of the frontend.
            audio: of the frontend.
            ids: int32 [B, tokens].
            length: int32 [B], how many of them count.
            present: float32 [B, 3] of ones and zeros.
        """
        inputs: dict[str, tuple[Tensor, ...]] = {"image": (image,), "audio": (audio,), "text": (ids, length)}
        features = {}
        for column, (name, tensors) in enumerate(inputs.items()):
            feature = self.encoders[name](*tensors)
            features[name] = torch.where(present[:, column : column + 1] > 0, feature, torch.zeros_like(feature))
        outputs = self.fusion(features, present)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def forward(
        self, pixels: Tensor, samples: Tensor, ids: Tensor, length: Tensor, present: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the outputs.

        Args:
            pixels: uint8 [B, height, width, channels].
            samples: float32 [B, samples].
            ids: int32 [B, tokens].
            length: int32 [B], how many of them count.
            present: float32 [B, 3] of ones and zeros.
        """
        return self.rest(*self.front(pixels, samples), ids, length, present)


class Half(nn.Module):
    """A network in float16, as in mixed precision: frontends, sums over a softmax and norms stay in float32."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        kept = {id(part) for part in self.network.modules() for part in _frontend(part)}
        for module in self.network.modules():
            if id(module) not in kept:
                _halve(module)

    def forward(
        self, pixels: Tensor, samples: Tensor, ids: Tensor, length: Tensor, present: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the outputs in float32; for the arguments see `Network`."""
        front = self.network.front(pixels, samples)
        with torch.autocast(pixels.device.type, torch.float16):
            outputs = self.network.rest(*front, ids, length, present)
        return tuple(output.float() for output in outputs)


def _frontend(module: nn.Module) -> list[nn.Module]:
    frontend = getattr(module, "frontend", None)
    return [*frontend.modules()] if isinstance(frontend, nn.Module) else []


def _halve(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.half()
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_floating_point():
            setattr(module, name, buffer.half())


@dataclass(frozen=True)
class Subject:
    """A reference model that is to be measured.

    Attributes:
        name: as its spec calls it.
        network: on the CPU, in float32, in evaluation mode.
        weights: where they come from, in words.
        inputs: `DISTINCT` items by the names in `INPUTS`, on the CPU.
    """

    name: str
    network: Network
    weights: str
    inputs: tuple[Tensor, ...]

    def batch(self, items: int) -> tuple[Tensor, ...]:
        """Return a batch: the items in turn."""
        rows = torch.arange(items) % DISTINCT
        return tuple(tensor[rows] for tensor in self.inputs)


def digits() -> Subject:
    """Return `digits` with its trained weights."""
    module = _module("edgefuse.models.digits.encoders")
    state = tensors(ROOT / "examples" / "digits" / "digits.safetensors")
    vocabulary, tokens = len(state["encoders.text.embedding.weight"]), state["encoders.text.positions"].shape[1]
    encoders = {
        "image": module.ImageEncoder(),
        "audio": module.AudioEncoder(),
        "text": module.TextEncoder(vocabulary, tokens),
    }
    network = Network(encoders, module.AttentionFusion())
    network.load_state_dict(state)
    inputs = _inputs(pixels=(64, 64, 1), samples=16_000, tokens=tokens, vocabulary=vocabulary)
    return Subject("digits", network.eval(), "trained (examples/digits/digits.safetensors)", inputs)


def assistant() -> Subject:
    """Return `assistant` with seeded weights: its own come from packages, which a bare machine cannot fetch."""
    image, audio, text, fusion = (
        _module(f"edgefuse.models.assistant.{name}") for name in ("image", "audio", "text", "fusion")
    )
    tokens = 24
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoders = {
            "image": image.ImageEncoder(fusion.WIDTH),
            "audio": audio.AudioEncoder(fusion.WIDTH),
            "text": text.TextEncoder(fusion.WIDTH, tokens),
        }
        network = Network(encoders, fusion.AttentionFusion(6))
        for module in network.modules():
            if isinstance(module, nn.Conv2d):  # the usual start, which keeps the size of what passes through
                nn.init.kaiming_normal_(module.weight, a=0.2)
    layers = _module("edgefuse.models.digits.layers")
    mel = layers.LogMelFrontend(window=audio.WINDOW, hop=audio.HOP, mels=audio.MELS)
    encoders["audio"].frontend.load(mel.basis[: audio.BINS], mel.basis[audio.BINS :], mel.filters)
    inputs = _inputs(pixels=(160, 160, 3), samples=32_000, tokens=tokens, vocabulary=text.VOCABULARY)
    _settle(network, inputs)
    return Subject("assistant", network.eval(), "seeded, not trained: the trained ones come from packages", inputs)


SUBJECTS = {"digits": digits, "assistant": assistant}


def tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file: eight bytes with the size of a JSON header, the header, the data."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            values = np.frombuffer(data[begin:end], _TYPES[entry["dtype"]]).reshape(entry["shape"])
            found[name] = torch.from_numpy(values.copy())
    return found


def _inputs(*, pixels: tuple[int, ...], samples: int, tokens: int, vocabulary: int) -> tuple[Tensor, ...]:
    random = np.random.default_rng(0)
    sound = 0.1 * random.standard_normal((DISTINCT, samples), np.float32)
    arrays = (
        random.integers(0, 256, (DISTINCT, *pixels), np.uint8),
        np.clip(sound, -1, 1),
        random.integers(1, vocabulary, (DISTINCT, tokens), np.int32),
        random.integers(1, tokens + 1, DISTINCT, np.int32),
        np.ones((DISTINCT, 3), np.float32),
    )
    return tuple(torch.from_numpy(array) for array in arrays)


@torch.no_grad()
def _settle(network: Network, inputs: tuple[Tensor, ...]) -> None:
    """Give seeded batch norms the statistics of these inputs, as training would: nothing vanishes or grows."""
    norms = [module for module in network.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    network.eval()
    for norm in norms:
        norm.train().momentum = 1.0
    network(*inputs)
    network.eval()


def _module(name: str) -> Any:
    """Import a module of the reference models, without the packages around it where these need more than is here."""
    try:
        return importlib.import_module(name)
    except ImportError:
        for package in _PACKAGES:
            bare = ModuleType(package)
            bare.__path__ = [str(ROOT.joinpath(*package.split(".")))]
            sys.modules.setdefault(package, bare)
        return importlib.import_module(name)
