"""Models of sensors: point clouds, tables, motion, two streams of video."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.zoo.entry import Entry, Floats, Ids, arrays, described
from benchmarks.zoo.transformers_models import Made
from edgefuse.bundle.spec import ClassOutput, tensor


def convolutions(*widths: int) -> nn.Sequential:
    """Return convolutions that halve a picture each time."""
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [nn.Conv2d(inner, outer, 3, 2, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
    return nn.Sequential(*layers)


class Points(nn.Module):
    """PointNet: a learned turn of the points, layers on each, and the largest of all."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Sequential(nn.Conv1d(3, 32, 1), nn.ReLU(), nn.Conv1d(32, 64, 1), nn.ReLU())
        self.matrix = nn.Linear(64, 9)
        self.layers = nn.Sequential(
            nn.Conv1d(3, 64, 1), nn.BatchNorm1d(64), nn.ReLU(), nn.Conv1d(64, 256, 1), nn.BatchNorm1d(256), nn.ReLU()
        )

    def forward(self, points: Tensor) -> Tensor:
        around = self.matrix(self.turn(points.transpose(1, 2)).amax(2)).view(-1, 3, 3)
        turned = points @ (around + torch.eye(3))
        y: Tensor = self.layers(turned.transpose(1, 2)).amax(2)
        return y


class PointsAndPicture(nn.Module):
    """PointNet beside a CNN."""

    def __init__(self) -> None:
        super().__init__()
        self.lidar, self.camera = Points(), convolutions(3, 32, 64, 128, 128)
        self.hidden, self.head = nn.Linear(256 + 128, 128), nn.Linear(128, 8)

    def forward(self, points: Tensor, camera: Tensor) -> Tensor:
        seen = self.camera(camera).mean((2, 3))
        logits: Tensor = self.head(self.hidden(torch.cat([self.lidar(points), seen], 1)).relu())
        return logits


def pointnet_image() -> Made:
    lidar, camera = arrays("lidar", ("points", "float32", (1024, 3))), tensor("camera", shape=(1, 3, 128, 128))
    return PointsAndPicture(), described("pointnet_image", lidar, camera)


class TableAndPicture(nn.Module):
    """Columns of numbers and of categories, each embedded, beside a CNN."""

    def __init__(self) -> None:
        super().__init__()
        self.columns = nn.ModuleList(nn.Embedding(20, 8) for _ in range(4))
        self.norm = nn.BatchNorm1d(10)
        self.table = nn.Sequential(nn.Linear(10 + 4 * 8, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.picture = convolutions(3, 32, 64, 128, 128)
        self.hidden, self.head = nn.Linear(128 + 64, 64), nn.Linear(64, 8)

    def forward(self, numbers: Tensor, categories: Tensor, picture: Tensor) -> Tensor:
        embedded = [column(categories[:, place]) for place, column in enumerate(self.columns)]
        row = self.table(torch.cat([self.norm(numbers), *embedded], 1))
        seen = self.picture(picture).mean((2, 3))
        logits: Tensor = self.head(self.hidden(torch.cat([row, seen], 1)).relu())
        return logits


def tabular_image() -> Made:
    table = arrays("table", ("numbers", "float32", (10,)), ("categories", "int32", (4,)))
    return TableAndPicture(), described("tabular_image", table, tensor("picture", shape=(1, 3, 128, 128)))


class MotionAndSound(nn.Module):
    """DeepConvLSTM over six axes of motion, and a CNN over a spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(6, 64, 5, padding=2), nn.ReLU(), nn.Conv1d(64, 64, 5, 2, padding=2), nn.ReLU()
        )
        self.recurrent = nn.LSTM(64, 96, batch_first=True)
        self.sound = convolutions(1, 32, 64, 96)
        self.head = nn.Linear(192, 8)

    def forward(self, motion: Tensor, sound: Tensor) -> Tensor:
        felt = self.recurrent(self.convolutions(motion.transpose(1, 2)).transpose(1, 2))[0][:, -1]
        logits: Tensor = self.head(torch.cat([felt, self.sound(sound[:, None]).mean((2, 3))], 1))
        return logits


def imu_audio() -> Made:
    motion, sound = tensor("motion", shape=(1, 200, 6)), tensor("sound", shape=(1, 128, 96))
    return MotionAndSound(), described("imu_audio", motion, sound)


class TwoStreams(nn.Module):
    """Frames in three dimensions beside their optical flow, stacked as channels; the mean of both verdicts."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Sequential(
            nn.Conv3d(3, 16, 3, (1, 2, 2), 1), nn.ReLU(), nn.Conv3d(16, 32, 3, 2, 1), nn.ReLU(),
            nn.Conv3d(32, 64, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        )  # fmt: skip
        self.flow = convolutions(16, 32, 64, 96)
        self.first, self.head = nn.Linear(64, 8), nn.Linear(96, 8)

    def forward(self, frames: Tensor, flow: Tensor) -> Tensor:
        seen = self.first(self.frames(frames)).softmax(1)
        moved: Tensor = self.head(self.flow(flow).mean((2, 3))).softmax(1)
        both: Tensor = (seen + moved) / 2
        return both


def two_stream_video() -> Made:
    frames, flow = tensor("frames", shape=(1, 3, 8, 64, 64)), tensor("flow", shape=(1, 16, 96, 96))
    return TwoStreams(), described("two_stream_video", frames, flow)


class Readings(nn.Module):
    """Two clocks: a fast signal and a slow one, dilated convolutions each, with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.fast, self.slow = self._tower(3), self._tower(5)
        self.squeeze, self.excite = nn.Linear(128, 32), nn.Linear(32, 128)
        self.head = nn.Linear(128, 3)

    @staticmethod
    def _tower(channels: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for place, dilation in enumerate((1, 2, 4)):
            inner = channels if place == 0 else 64
            layers += [nn.Conv1d(inner, 64, 3, padding=dilation, dilation=dilation), nn.GroupNorm(8, 64), nn.SiLU()]
        return nn.Sequential(*layers)

    def forward(self, fast: Tensor, slow: Tensor) -> Tensor:
        both = torch.cat([self.fast(fast).mean(2), self.slow(slow).mean(2)], 1)
        logits: Tensor = self.head(both * torch.sigmoid(self.excite(self.squeeze(both).relu())))
        return logits


def sensor_clocks() -> Made:
    fast, slow = tensor("fast", shape=(1, 3, 1024)), tensor("slow", shape=(1, 5, 256))
    states = ClassOutput(labels=("healthy", "worn", "broken"))
    return Readings(), described("sensor_clocks", fast, slow, outputs=(states,))


ENTRIES = (
    Entry(pointnet_image, {"points": Floats(-1, 1)}, ("head",)),
    Entry(tabular_image, {"categories": Ids(20)}, ("head",)),
    Entry(imu_audio, {}, ("head",)),
    Entry(two_stream_video, {}, ("first", "head")),
    Entry(sensor_clocks, {}, ("head",)),
)
