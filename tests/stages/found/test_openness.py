"""What torch would trace otherwise than it is computed does not keep a model in one piece."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edgefuse.bundle.spec import Bounded, tensor
from edgefuse.errors import ModelError
from edgefuse.stages.found import find
from tests.stages.found.models import MOTION, described

SERIES = tensor("series", shape=(1, Bounded(max=12), 8))
FIXED = tensor("series", shape=(1, 12, 8))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.series, self.motion, self.head = nn.Conv1d(8, 16, 3, padding=1), nn.Linear(6, 16), nn.Linear(32, 4)

    def forward(self, series: Tensor, motion: Tensor) -> Tensor:
        heard = self.heard(self.series(series.transpose(1, 2)))
        y: Tensor = self.head(torch.cat([heard, self.motion(motion).mean(1)], 1))
        return y

    def heard(self, x: Tensor) -> Tensor:
        return x.mean(2)


class PooledWhole(Pair):
    def heard(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool1d(x.relu(), x.size(2)).squeeze(2)


class Products(Pair):
    def heard(self, x: Tensor) -> Tensor:
        one, all_of_it = x[:, 0], x.flatten(1).view(x.shape[0], 16, -1)
        return torch.einsum("bt,bct,bt->bc", one, all_of_it, one)


class Autocast(Pair):
    def heard(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return x.float().tanh().mean(2)

    def forward(self, series: Tensor, motion: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(series, motion)


class Checkpointed(Pair):
    reentrant = False

    def heard(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(super().heard, x, use_reentrant=self.reentrant)
        return y


class CheckpointedAgain(Checkpointed):
    """In the older way, which warns that nothing is trained."""

    reentrant = True


class Causal(Pair):
    """Torch's own transformer under a mask, which it looks at the values of."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def heard(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[2])
        y: Tensor = self.layers(x.transpose(1, 2), mask=mask)
        return y[:, -1]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("module", [PooledWhole, Products, Autocast, Causal, Checkpointed, CheckpointedAgain])
def test_encoders_are_found_behind_it(module: type[nn.Module]) -> None:
    made = find(module().eval(), described(SERIES, MOTION))
    assert [stage.spec.name for stage in made.stages] == ["series_encoder", "motion_encoder", "fusion"]
    assert not [note for note in made.notes if "one sample" in note]


class HalfPrecision(Pair):
    def heard(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return (x @ x.transpose(1, 2)).mean(2)


def test_half_precision_within_a_model_is_refused_with_its_line() -> None:
    with pytest.raises(
        ModelError, match=r"under torch.autocast at 'test_openness.py:.*heard = self.heard.*bfloat16"
    ) as caught:
        find(HalfPrecision().eval(), described(FIXED, MOTION))
    assert "enabled=self.training" in str(caught.value)


class Shifted(Pair):
    """Channels shifted in time, in place; a module then reads a view of what was changed."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv1d(16, 16, 3, padding=1)

    def heard(self, x: Tensor) -> Tensor:
        y = x.view(x.shape[0], 2, 8, -1)
        shifted = torch.zeros_like(y)
        shifted[:, :1] = y[:, 1:]
        shifted[:, 1:] = y[:, :1]
        z: Tensor = self.second(shifted.view(x.shape[0], 16, -1))
        return z.mean(2)


def test_submodules_stay_modules_where_they_read_views_of_what_changes_in_place() -> None:
    made = find(Shifted().eval(), described(FIXED, MOTION))
    assert [work.modules for work in made.work] == [("series", "second"), ("motion",), ("head",)]
