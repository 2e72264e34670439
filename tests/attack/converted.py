"""Stage files as the targets and quantizers make them: `python -m tests.attack.converted FOLDER tflite|onnx`.

Converters start threads, which a fork does not survive: an area that wants such files has a process make them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SCHEMES = {
    "tflite": (("static_wi8_ai8", "s8"), ("dynamic_wi8_af32", ""), ("dynamic_wi4_af32", ""), ("fp16", "")),
    "onnx": (("static_wi8_ai8", "u8"), ("dynamic_wi8_af32", ""), ("dynamic_wi4_af32", ""), ("fp16", "")),
}


def converted(folder: Path, target: str) -> dict[str, bytes]:
    """Return small files of a target by name, made by another process."""
    command = [sys.executable, "-m", "tests.attack.converted", str(folder), target]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True)
    return {path.stem: path.read_bytes() for path in sorted(folder.glob(f"*.{target}"))}


def _stages() -> Iterator[Any]:
    """Yield an image network, attention over words, and a recurrent layer, as stages."""
    import torch
    from torch import Tensor, nn

    from edgefuse.bundle.spec import DType, Source, StageInput, StageOutput, StageSpec, TensorSpec
    from edgefuse.stages.stage import TorchStage

    class Picture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                *(
                    nn.Conv2d(3, 8, 3, 2, 1),
                    nn.BatchNorm2d(8),
                    nn.ReLU6(),
                    nn.Conv2d(8, 8, 3, 1, 1, groups=8),
                    nn.ReLU(),
                ),
                *(nn.Conv2d(8, 8, 1), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.Hardswish()),
            )
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.body(x).mean((2, 3)))
            return y

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 32)
            self.layer = nn.TransformerEncoderLayer(32, 2, 32, batch_first=True, activation="gelu")

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(self.table(x)).mean(1)
            return y

    class Sound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(8, 16, batch_first=True, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)[0]
            return y

    torch.manual_seed(0)
    made: tuple[tuple[str, nn.Module, DType, tuple[int, ...], tuple[int, ...]], ...] = (
        ("picture", Picture(), "float32", (1, 3, 16, 16), (1, 4)),
        ("words", Words(), "int32", (1, 6), (1, 32)),
        ("sound", Sound(), "float32", (1, 5, 8), (1, 5, 32)),
    )
    for name, module, dtype, shape, answer in made:
        source = Source(kind="modality", owner="own", tensor="x")
        spec = StageSpec(
            name=name,
            role="encoder",
            inputs=(StageInput(tensor=TensorSpec(name="x", dtype=dtype, shape=shape), source=source),),
            outputs=(StageOutput(tensor=TensorSpec(name="y", shape=answer)),),
        )
        yield TorchStage(spec, module.eval())


def main(folder: Path, target: str) -> None:
    """Write the files of one target, in float and in every scheme that has something to quantize."""
    import numpy as np

    from edgefuse import registry
    from edgefuse.bundle.scheme import Scheme
    from edgefuse.errors import QuantizeError

    lowering, quantizer = (registry.create(group, target) for group in ("targets", "quantizers"))
    for stage in _stages():
        file = lowering.lower(stage)
        (folder / f"{stage.spec.name} float.{target}").write_bytes(file.data)
        port = stage.spec.inputs[0].tensor
        source = np.random.default_rng(0)

        def feeds(port: Any = port, source: Any = source) -> Iterator[dict[str, Any]]:
            for _ in range(3):
                values = (
                    source.normal(size=port.shape) if port.dtype == "float32" else source.integers(0, 20, port.shape)
                )
                yield {"x": values.astype(port.dtype)}

        for name, activation in _SCHEMES[target]:
            scheme: Any = Scheme(name=name, activation=activation)  # type: ignore[arg-type]
            try:
                quantized = quantizer.apply(file, scheme, feeds)
            except QuantizeError:
                continue
            (folder / f"{stage.spec.name} {name}.{target}").write_bytes(quantized.data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
