"""What a model can do in the terms of the protocol."""

from __future__ import annotations

from dataclasses import dataclass

from edgefuse.bundle.spec import AudioPreprocess, ClassOutput, ModelSpec, TextPreprocess, TokensOutput
from edgefuse.errors import InputError


@dataclass(frozen=True)
class Roles:
    """Which modalities take what a voice assistant has, and what kind of answer comes of it.

    Attributes:
        text: the modality that takes what was said.
        audio: the modality that takes how it was said, or None.
        clip_s: of sound that it takes, at most; 0 without one.
        replies: the model answers in words of its own; else it names an intent.
    """

    text: str
    audio: str | None
    clip_s: float
    replies: bool


def roles_of(model: ModelSpec, *, hears: bool) -> Roles:
    """Return the roles of a model.

    Args:
        model: that answers.
        hears: whether sound will come, from a speech-to-text service in between.

    Raises:
        InputError: it takes no text, needs what an assistant does not send, or answers neither with classes nor words.
    """
    text = next((one.name for one in model.modalities if isinstance(one.preprocess, TextPreprocess)), None)
    if text is None:
        raise _unfit(model, "a modality of text", ", ".join(one.name for one in model.modalities))
    audio, clip_s = None, 0.0
    for one in model.modalities:
        if hears and audio is None and isinstance(one.preprocess, AudioPreprocess):
            audio, clip_s = one.name, one.preprocess.samples / one.preprocess.sample_rate_hz
    for one in model.modalities:
        if not one.optional and one.name not in (text, audio):
            raise _unfit(model, "a model that can do without everything but text", f"it needs '{one.name}'")
    replies = any(isinstance(one, TokensOutput) and one.start is not None for one in model.outputs)
    if not replies and not any(isinstance(one, ClassOutput) for one in model.outputs):
        raise _unfit(
            model, "an output of classes, or a decoder that makes words", ", ".join(one.name for one in model.outputs)
        )
    return Roles(text, audio, clip_s, replies)


def _unfit(model: ModelSpec, expected: str, got: str) -> InputError:
    return InputError(f"the model '{model.name}' cannot answer a voice assistant", got=got, expected=expected)
