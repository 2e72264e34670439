"""MobileNetV2 (arXiv:1801.04381) and its frontend, in the form and with the weights of torchvision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefuse.models.digits.layers import ConvNormAct, InvertedResidual

WIDTH = 1280
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
# Channels out, expansion, stride of the first, number of blocks: table 2 of the paper, without its first row.
_STACKS = ((24, 6, 2, 2), (32, 6, 2, 3), (64, 6, 2, 4), (96, 6, 1, 3), (160, 6, 2, 3), (320, 6, 1, 1))


class ImageNetFrontend(nn.Module):
    """Turn camera pixels, uint8 [B, H, W, 3], into float32 [B, 3, H, W] with ImageNet's mean and deviation removed."""

    def __init__(self) -> None:
        super().__init__()
        mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (_MEAN, _DEVIATION))
        self.register_buffer("scale", 1.0 / (255.0 * deviation), persistent=False)
        self.register_buffer("offset", mean / deviation, persistent=False)
        self.scale: Tensor
        self.offset: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """Scale grey levels 0..255 channel by channel."""
        return pixels.permute(0, 3, 1, 2).to(torch.float32) * self.scale - self.offset


class MobileNetV2(nn.Sequential):
    """Map a picture, float32 [B, 3, H, W], to [B, 1280, H / 32, W / 32]; the classifier is left out."""

    def __init__(self) -> None:
        first = nn.Sequential(ConvNormAct(32, 32, 3, groups=32), ConvNormAct(32, 16, 1, act=False))
        layers: list[nn.Module] = [ConvNormAct(3, 32, 3, stride=2), first]
        channels = 16
        for channels_out, expansion, stride, count in _STACKS:
            for place in range(count):
                layers.append(InvertedResidual(channels, channels_out, expansion, stride if place == 0 else 1))
                channels = channels_out
        super().__init__(*layers, ConvNormAct(channels, WIDTH, 1))


class ImageEncoder(nn.Module):
    """Encode what the frontend gives, float32 [B, 3, H, W], as a feature [B, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frontend = ImageNetFrontend()
        self.backbone = MobileNetV2()
        self.head = nn.Linear(WIDTH, width)

    def embed(self, x: Tensor) -> Tensor:
        """Return the output of the pretrained part for a picture, [B, 1280]."""
        y: Tensor = self.backbone(x)
        return y.mean(dim=(2, 3))

    def decide(self, embedding: Tensor) -> Tensor:
        """Return the feature for what `embed` gave."""
        y: Tensor = self.head(embedding)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Encode what the frontend gives."""
        return self.decide(self.embed(x))
