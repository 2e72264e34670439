"""What every reference model promises: an absent modality and padding change nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from edgefuse.models.assistant import fusion
from edgefuse.models.assistant import model as assistant
from edgefuse.models.digits import encoders
from edgefuse.models.digits import model as digits
from edgefuse.models.fusion import FusionModel


@dataclass(frozen=True)
class Reference:
    model: FusionModel
    modalities: tuple[str, ...]
    width: int
    tokens: int


@pytest.fixture(
    scope="module",
    params=[
        (digits.build, encoders.MODALITIES, encoders.WIDTH, 60),
        (assistant.assemble, fusion.MODALITIES, fusion.WIDTH, 30_000),
    ],
    ids=["digits", "assistant"],
)
def reference(request: pytest.FixtureRequest) -> Reference:
    build: Callable[[], FusionModel]
    build, *facts = request.param
    torch.manual_seed(0)
    return Reference(build().eval(), *facts)


@torch.inference_mode()
@pytest.mark.parametrize("column", range(3))
def test_outputs_do_not_depend_on_the_feature_of_an_absent_modality(reference: Reference, column: int) -> None:
    fusion, names = reference.model.fusion, reference.modalities
    present = torch.ones(2, 3)
    present[:, column] = 0
    features = {name: torch.randn(2, reference.width) for name in names}
    other = {**features, names[column]: torch.full((2, reference.width), 1e6)}
    torch.testing.assert_close(fusion(features, present), fusion(other, present), rtol=0, atol=0)


@torch.inference_mode()
def test_text_feature_does_not_depend_on_padding(reference: Reference) -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, reference.tokens, (1, 24), dtype=torch.int32, generator=generator)
    length = torch.tensor([5], dtype=torch.int32)
    padded = ids.clone()
    padded[:, 5:] = 1
    encode = reference.model.encoders["text"]
    torch.testing.assert_close(encode(ids, length), encode(padded, length), rtol=0, atol=1e-6)


@torch.inference_mode()
def test_empty_text_gives_a_finite_feature(reference: Reference) -> None:
    encode = reference.model.encoders["text"]
    feature = encode(torch.zeros(1, 24, dtype=torch.int32), torch.zeros(1, dtype=torch.int32))
    assert torch.isfinite(feature).all()
