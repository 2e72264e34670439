"""The parts of a fusion model as typed data: modalities, stages, wiring.

These structs are shared by the build host (which fills them from a torch model) and the device (which reads them
from a bundle's manifest). They import nothing but msgspec.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal, TypeAlias

import msgspec

from edgefuse.bundle.outputs import ArrayOutput as ArrayOutput
from edgefuse.bundle.outputs import ClassOutput as ClassOutput
from edgefuse.bundle.outputs import EmbeddingOutput as EmbeddingOutput
from edgefuse.bundle.outputs import LabelsOutput as LabelsOutput
from edgefuse.bundle.outputs import Output as Output
from edgefuse.bundle.outputs import Record as Record
from edgefuse.bundle.outputs import TokensOutput as TokensOutput
from edgefuse.bundle.outputs import ValuesOutput as ValuesOutput
from edgefuse.bundle.tensors import Bounded as Bounded
from edgefuse.bundle.tensors import Bucketed as Bucketed
from edgefuse.bundle.tensors import Declared as Declared
from edgefuse.bundle.tensors import Dim as Dim
from edgefuse.bundle.tensors import DType as DType
from edgefuse.bundle.tensors import TensorSpec as TensorSpec
from edgefuse.bundle.tensors import largest as largest
from edgefuse.bundle.tensors import spelled as spelled
from edgefuse.errors import ModelError

Role: TypeAlias = Literal["frontend", "encoder", "fusion", "decoder", "model"]


class ImagePreprocess(Record, frozen=True, kw_only=True, tag_field="kind", tag="image"):
    """Decode and resize a picture to uint8 [1, height, width, channels] (1: grey, 3: RGB)."""

    height: int
    width: int
    channels: Literal[1, 3] = 3
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    fit: Literal["stretch", "contain", "cover"] = "stretch"


class CroppedImagePreprocess(ImagePreprocess, frozen=True, kw_only=True, tag="cropped_image"):
    """Resize a picture to a shorter edge, the longer one rounded down, and cut out its centre."""

    shortest_edge: int


class AudioPreprocess(Record, frozen=True, kw_only=True, tag_field="kind", tag="audio"):
    """Decode, mix to mono and resample sound to float32 PCM in [-1, 1], [1, samples].

    A longer clip is cut at `samples`, a shorter one is padded with zeros (or kept where the tensor is bounded).
    """

    sample_rate_hz: int
    samples: int


class RepeatedAudioPreprocess(AudioPreprocess, frozen=True, kw_only=True, tag="repeated_audio"):
    """The same, with a shorter clip repeated as often as it fits."""


class TextPreprocess(Record, frozen=True, kw_only=True, tag_field="kind", tag="text"):
    """Tokenise text with a `tokenizer.json` to int32 ids [1, max_length], padded with `pad_id`."""

    tokenizer: str
    max_length: int
    pad_id: int = 0


class VideoPreprocess(Record, frozen=True, kw_only=True, tag_field="kind", tag="video"):
    """Decode a clip, take its frames at a rate and resize them to uint8 [1, frames, height, width, channels].

    At each multiple of `1 / frames_per_second` from the first frame on, the frame that is shown then is taken. A longer
    clip is cut at `frames`, a shorter one is padded with zeros (or kept where the tensor is bounded). A frame is
    resized as by `ImagePreprocess`.
    """

    height: int
    width: int
    channels: Literal[1, 3] = 3
    frames: int
    frames_per_second: float
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    fit: Literal["stretch", "contain", "cover"] = "stretch"


class TensorPreprocess(Record, frozen=True, kw_only=True, tag_field="kind", tag="tensor"):
    """Take an array as it is, after checking its type, shape and that it is finite."""


Preprocess: TypeAlias = (
    ImagePreprocess
    | CroppedImagePreprocess
    | AudioPreprocess
    | RepeatedAudioPreprocess
    | TextPreprocess
    | VideoPreprocess
    | TensorPreprocess
)


class Modality(Record, frozen=True, kw_only=True):
    """One input channel of a model.

    Attributes:
        name: unique within the model; it is also the keyword of `Pipeline.__call__`.
        tensors: what the modality delivers to its first stage.
        preprocess: how raw input becomes these tensors.
        optional: whether it may be absent at run time.
        length: whether an int32 [1] `length` (valid steps of the first tensor's axis 1) goes with the tensors.
    """

    name: str
    tensors: tuple[TensorSpec, ...]
    preprocess: Preprocess
    optional: bool = False
    length: bool = False


def image(name: str, *, height: int, width: int, channels: Literal[1, 3] = 3, optional: bool = False) -> Modality:
    """Describe an image modality that delivers `pixels` uint8 [1, height, width, channels].

    Args:
        name: of the modality.
        height: in pixels.
        width: in pixels.
        channels: 1 for grey, 3 for RGB.
        optional: whether it may be absent.
    """
    pixels = TensorSpec(name="pixels", dtype="uint8", shape=(1, height, width, channels))
    preprocess = ImagePreprocess(height=height, width=width, channels=channels)
    return Modality(name=name, tensors=(pixels,), preprocess=preprocess, optional=optional)


def audio(name: str, *, sample_rate_hz: int, samples: int, variable: bool = False, optional: bool = False) -> Modality:
    """Describe an audio modality that delivers `samples` float32 [1, samples] (any length up to it if `variable`).

    Args:
        name: of the modality.
        sample_rate_hz: of the samples.
        samples: per input, or at most.
        variable: whether an input may be shorter.
        optional: whether it may be absent.
    """
    dim: Dim = Bounded(max=samples) if variable else samples
    pcm = TensorSpec(name="samples", shape=(1, dim))
    preprocess = AudioPreprocess(sample_rate_hz=sample_rate_hz, samples=samples)
    return Modality(name=name, tensors=(pcm,), preprocess=preprocess, optional=optional, length=variable)


def text(
    name: str,
    *,
    tokenizer: str,
    max_length: int,
    pad_id: int = 0,
    variable: bool = False,
    optional: bool = False,
) -> Modality:
    """Describe a text modality that delivers `ids` int32 [1, max_length] and its `length`.

    Args:
        name: of the modality.
        tokenizer: the path of a `tokenizer.json` among the model's assets.
        max_length: tokens per input, at most.
        pad_id: the id that fills up a shorter text.
        variable: whether the files may take fewer than `max_length` tokens.
        optional: whether it may be absent.
    """
    dim: Dim = Bounded(max=max_length) if variable else max_length
    ids = TensorSpec(name="ids", dtype="int32", shape=(1, dim))
    preprocess = TextPreprocess(tokenizer=tokenizer, max_length=max_length, pad_id=pad_id)
    return Modality(name=name, tensors=(ids,), preprocess=preprocess, optional=optional, length=True)


def video(
    name: str,
    *,
    height: int,
    width: int,
    frames: int,
    fps: float,
    channels: Literal[1, 3] = 3,
    variable: bool = False,
    length: bool = False,
    optional: bool = False,
) -> Modality:
    """Describe a video modality that delivers `frames` uint8 [1, frames, height, width, channels].

    Args:
        name: of the modality.
        height: in pixels.
        width: in pixels.
        frames: per input, or at most.
        fps: frames per second that are taken of a clip.
        channels: 1 for grey, 3 for RGB.
        variable: whether the files may take fewer frames; the modality has a length then.
        length: whether it delivers how many frames are not padding, int32 [1], in any case.
        optional: whether it may be absent.
    """
    dim: Dim = Bounded(max=frames) if variable else frames
    taken = TensorSpec(name="frames", dtype="uint8", shape=(1, dim, height, width, channels))
    preprocess = VideoPreprocess(
        height=height, width=width, channels=channels, frames=frames, frames_per_second=float(fps)
    )
    return Modality(name=name, tensors=(taken,), preprocess=preprocess, optional=optional, length=variable or length)


def tensor(
    name: str,
    *,
    shape: tuple[Dim, ...],
    dtype: Declared = "float32",
    length: bool = False,
    optional: bool = False,
) -> Modality:
    """Describe a modality that delivers one array `values` of the given shape (batch first).

    Args:
        name: of the modality.
        shape: of one input, batch first; a `Dim` may be fixed, bounded or bucketed.
        dtype: of the array. What torch calls int64, such as ids, is int32 in files and on devices, and so are the
            truth values of a mask: a module is called with bool where its spec says so.
        length: whether it delivers its number of steps, int32 [1], too.
        optional: whether it may be absent.
    """
    values = TensorSpec(name="values", dtype=dtype, shape=shape)  # type: ignore[arg-type] # until `in_files`
    return tensors(name, values, length=length, optional=optional)


def tensors(name: str, *tensors: TensorSpec, length: bool = False, optional: bool = False) -> Modality:
    """Describe a modality that delivers several arrays, such as ids and a mask; a caller gives them by their names.

    Args:
        name: of the modality.
        *tensors: their names, types (see `tensor`) and shapes (batch first).
        length: whether it delivers its number of steps, int32 [1], too.
        optional: whether it may be absent.
    """
    kept = tuple(_in_files(one, kept=("bool",)) for one in tensors)
    return Modality(name=name, tensors=kept, preprocess=TensorPreprocess(), optional=optional, length=length)


def _in_files(tensor: TensorSpec, kept: tuple[str, ...] = ()) -> TensorSpec:
    wide = str(tensor.dtype) in ("int64", "bool") and str(tensor.dtype) not in kept
    return msgspec.structs.replace(tensor, dtype="int32") if wide else tensor


class ModelSpec(Record, frozen=True, kw_only=True):
    """The user's description of a model: its modalities, its outputs, and its metric.

    Attributes:
        name: used in file names: lower-case letters, digits, '-' and '_'.
        modalities: in the order of the columns of `present`.
        outputs: each is judged by its `metric` where samples have targets for it, and else by how far it is from the
            reference's.
        metric: of the first output. One is named as in `edgefuse.compiler.metrics`, such as `accuracy` or `recall@10`,
            or as the user's own `module:callable`; where none is, the kind of the output decides.
    """

    name: str
    modalities: tuple[Modality, ...]
    outputs: tuple[Output, ...]
    metric: str = ""

    def modality(self, name: str) -> Modality:
        """Return the modality of that name, or raise `ModelError`."""
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise ModelError(
            f"the model '{self.name}' has no modality '{name}'",
            expected=" or ".join(m.name for m in self.modalities),
        )

    def subsets(self) -> tuple[tuple[str, ...], ...]:
        """Return every admissible subset of modalities in spec order, the largest first."""
        names = [m.name for m in self.modalities]
        required = {m.name for m in self.modalities if not m.optional}
        return tuple(
            subset
            for size in range(len(names), 0, -1)
            for subset in combinations(names, size)
            if required <= set(subset)
        )


def in_files(spec: ModelSpec) -> ModelSpec:
    """Return a spec with the types that files have: ids and masks are int32 there, whatever the module wants."""
    modalities = tuple(
        msgspec.structs.replace(modality, tensors=tuple(map(_in_files, modality.tensors)))
        for modality in spec.modalities
    )
    return msgspec.structs.replace(spec, modalities=modalities)


class Source(Record, frozen=True, kw_only=True):
    """Where a stage's input comes from.

    `modality`: `tensor` of modality `owner`; `length`: the length of modality `owner`; `stage`: output `tensor` of
    stage `owner`; `present`: the mask float32 [1, modalities]; `state`: the output `tensor` of this stage's last run.
    A decoder's step takes the `token` before, and may take its `position`, from 0: both int32 [1].
    """

    kind: Literal["modality", "length", "stage", "present", "state", "token", "position"]
    owner: str = ""
    tensor: str = ""

    @property
    def key(self) -> str:
        """The name of the value in a pipeline's pool: `image.pixels`, `text.length`, `/image_encoder.feature`."""
        if self.kind == "modality":
            return f"{self.owner}.{self.tensor}"
        if self.kind == "length":
            return f"{self.owner}.length"
        if self.kind == "stage":
            return f"/{self.owner}.{self.tensor}"
        return f"~{self.owner}.{self.tensor}" if self.kind == "state" else self.kind


class StageInput(Record, frozen=True, kw_only=True):
    """An input port of a stage and its source."""

    tensor: TensorSpec
    source: Source


class StageOutput(Record, frozen=True, kw_only=True):
    """An output port of a stage: a feature for other stages, a result for the caller or the next state.

    Attributes:
        initial: where a decoder's state comes from before its first step: an output of an earlier stage; zeros if None.
    """

    tensor: TensorSpec
    kind: Literal["feature", "result", "state"] = "feature"
    initial: Source | None = None


class StageSpec(Record, frozen=True, kw_only=True):
    """One graph of the model with its wiring. Stages are listed in an order in which they can run."""

    name: str
    role: Role
    inputs: tuple[StageInput, ...]
    outputs: tuple[StageOutput, ...]
    modality: str = ""

    def key(self, output: str) -> str:
        """Return how a pipeline's pool calls an output of this stage; see `Source.key`."""
        return f"/{self.name}.{output}"


def subset_name(subset: tuple[str, ...]) -> str:
    """Return the name of a subset of modalities as reports spell it: `image+audio+text`."""
    return "+".join(subset)
