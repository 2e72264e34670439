"""The reference models by name. Imports no torch, so that they can be listed anywhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReferenceModel:
    """A model that comes with edgefuse: what it takes, what it answers, and the factory that builds it."""

    name: str
    modalities: tuple[str, ...]
    summary: str
    factory: str


REFERENCE_MODELS = (
    ReferenceModel(
        name="digits",
        modalities=("image", "audio", "text"),
        summary="which digit is shown, said and typed? CNN, causal convolutions + attention, transformer, fusion",
        factory="edgefuse.models.digits:build",
    ),
)
