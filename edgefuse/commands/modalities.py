"""Options that a bundle brings: one per modality, named after it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgefuse.bundle.spec import AudioPreprocess, ImagePreprocess, Modality, ModelSpec, TextPreprocess, VideoPreprocess
from edgefuse.commands.arguments import Parser
from edgefuse.errors import InputError
from edgefuse.runtime.preprocess.array_file import read_array

_MEDIA = (ImagePreprocess, AudioPreprocess, VideoPreprocess)
"""What comes from a file of a format that others made; see `edgefuse.runtime.preprocess`."""


def parse(spec: ModelSpec, extra: Sequence[str], taken: argparse.ArgumentParser) -> dict[str, object]:
    """Return the raw inputs that a command line gives, by modality; empty if it gives none.

    `extra` is what the verb's own parser, `taken`, does not know. A modality that is called like one of the parser's
    options is given as `--input-<name>`.

    Args:
        spec: the bundle's model.
        extra: the arguments that the verb's own parser does not know.
        taken: that parser.

    Raises:
        InputError: if an option is unknown, has no value, or names a file that cannot be read.
    """
    parser = Parser(add_help=False, allow_abbrev=False, exit_on_error=False)
    options = {option(modality, taken): modality for modality in spec.modalities}
    for name, modality in options.items():
        parser.add_argument(name, dest=modality.name)
    usage = " ".join(f"{name} {_value(modality)}" for name, modality in options.items())
    try:
        given, unknown = parser.parse_known_args(list(extra))
    except argparse.ArgumentError as error:
        raise InputError(f"the inputs of '{spec.name}' cannot be read", got=str(error), expected=usage) from error
    if unknown:
        raise InputError(f"'{spec.name}' takes no such input", got=" ".join(unknown), expected=usage)
    return {
        modality.name: _raw(modality, value)
        for modality in spec.modalities
        if (value := getattr(given, modality.name)) is not None
    }


def option(modality: Modality, taken: argparse.ArgumentParser) -> str:
    """Return how a modality is spelled on the command line."""
    plain = f"--{modality.name}"
    clash = any(plain in action.option_strings for action in taken._actions)
    return f"--input-{modality.name}" if clash else plain


def _value(modality: Modality) -> str:
    if isinstance(modality.preprocess, TextPreprocess):
        return "TEXT"
    return "FILE" if isinstance(modality.preprocess, _MEDIA) else "FILE.npy"


def _raw(modality: Modality, value: str) -> object:
    """Return what a pipeline takes: text as it stands, an array of a .npy file, or the path of any other file."""
    if isinstance(modality.preprocess, TextPreprocess):
        return value
    is_media = isinstance(modality.preprocess, _MEDIA)
    return Path(value) if is_media and not value.endswith(".npy") else read_array(value, modality.name)
