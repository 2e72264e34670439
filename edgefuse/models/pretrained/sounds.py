"""Feature extractors: sampling rate and length as typed preprocessing, spectra and normalisation in the graph.

A short-time Fourier transform is a strided convolution with windowed sines and cosines, which lowers everywhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import AudioPreprocess, Bounded, Modality, RepeatedAudioPreprocess, TensorSpec
from edgefuse.models.pretrained.folder import Folder, processor_of
from edgefuse.models.pretrained.inputs import Array, Input

NAME = "audio"
_SECONDS = 10
"""Of the longest sound, where neither model nor processor has a limit."""
_AST_WINDOW, _AST_HOP, _AST_LENGTH, _AST_FLOOR, _AST_PREEMPHASIS = 400, 160, 512, 1.192092955078125e-07, 0.97


class MelPower(nn.Module):
    """Turn PCM, float32 [B, samples], into the power in each mel band, float32 [B, frames, mels].

    Args:
        basis: cosines, then sines, of each bin, float [2 * bins, window].
        filters: of the mel scale, float [bins, mels].
        hop: samples from one frame to the next.
        centred: whether frames are centred, on samples that are mirrored at both ends.
    """

    def __init__(self, basis: Array, filters: Array, hop: int, *, centred: bool) -> None:
        super().__init__()
        self.bins, self.hop = len(basis) // 2, hop
        self.margin = basis.shape[1] // 2 if centred else 0
        self.register_buffer("basis", torch.tensor(basis, dtype=torch.float32).unsqueeze(1))
        self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32))
        self.basis: Tensor
        self.filters: Tensor

    def extra_repr(self) -> str:
        """Spell what no weight tells."""
        return f"hop={self.hop}, margin={self.margin}"

    def forward(self, samples: Tensor) -> Tensor:
        """Return one row per hop."""
        x = samples.unsqueeze(1)
        if self.margin:
            x = nn.functional.pad(x, (self.margin, self.margin), mode="reflect")
        parts = nn.functional.conv1d(x, self.basis, stride=self.hop)
        real, imaginary = parts[:, : self.bins], parts[:, self.bins :]
        power = real * real + imaginary * imaginary
        return torch.matmul(power.transpose(1, 2), self.filters)


class LogMel(nn.Module):
    """Return the logarithm of the power in mel bands, `scale` * ln(max(power, floor)), [B, frames, mels]."""

    def __init__(self, mel: MelPower, floor: float, scale: float = 1.0) -> None:
        super().__init__()
        self.mel, self.floor, self.scale = mel, floor, scale

    def extra_repr(self) -> str:
        """Spell what no weight tells."""
        return f"floor={self.floor}, scale={self.scale}"

    def forward(self, samples: Tensor) -> Tensor:
        """Take PCM, float32 [B, samples]."""
        levels: Tensor = torch.log(torch.clamp(self.mel(samples), min=self.floor)) * self.scale
        return levels


class WhisperLevels(LogMel):
    """Levels in tens of dB, at most 80 dB below the loudest, as Whisper's encoder takes them: [B, mels, frames]."""

    def forward(self, samples: Tensor) -> Tensor:
        """Take PCM, float32 [B, samples]; the last frame is left out."""
        levels = super().forward(samples)[:, :-1].transpose(1, 2)
        return (torch.maximum(levels, levels.amax(dim=(1, 2), keepdim=True) - 8.0) + 4.0) * 0.25


class ClapLevels(LogMel):
    """Levels in dB, as CLAP's encoder takes them: [B, 1, frames, mels]."""

    def forward(self, samples: Tensor) -> Tensor:
        """Take PCM, float32 [B, samples]."""
        return super().forward(samples).unsqueeze(1)


class Standardized(nn.Module):
    """Shift and scale sounds, float32 [B, samples], to a mean of zero and a variance of one."""

    def forward(self, samples: Tensor) -> Tensor:
        """Take one or more sounds of one length."""
        centred = samples - samples.mean(dim=1, keepdim=True)
        return centred * torch.rsqrt((centred * centred).mean(dim=1, keepdim=True) + 1e-7)


class Silenced(nn.Module):
    """Set the frames of AST's levels, [B, frames, mels], to zero that lie behind the sound; then shift and scale.

    Args:
        frames: in all.
        mean: that is taken off.
        scale: of what is left.
    """

    def __init__(self, frames: int, mean: float, scale: float) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale
        self.register_buffer("ends", torch.arange(frames, dtype=torch.int32) * _AST_HOP + _AST_WINDOW)
        self.ends: Tensor

    def extra_repr(self) -> str:
        """Spell what no weight tells."""
        return f"mean={self.mean}, scale={self.scale}"

    def forward(self, levels: Tensor, length: Tensor) -> Tensor:
        """Take levels, and how many samples there are, int32 [B]."""
        heard = (self.ends.unsqueeze(0) <= length.unsqueeze(1)).unsqueeze(2)
        return (torch.where(heard, levels, torch.zeros_like(levels)) - self.mean) * self.scale


def waves(window: Array, length: int) -> Array:
    """Return windowed cosines, then sines, of each bin of a transform, float64 [2 * bins, window].

    Args:
        window: float [window].
        length: of the transform, at least that of the window.
    """
    bins, time = np.arange(length // 2 + 1), np.arange(len(window))
    phase = 2 * math.pi * (np.outer(bins, time) % length) / length
    found: Array = np.concatenate([np.cos(phase), np.sin(phase)]) * window
    return found


def _hann(width: int, *, periodic: bool) -> Array:
    window: Array = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(width) / (width if periodic else width - 1))
    return window


def waveform(folder: Folder, *, optional: bool = False) -> Input:
    """Return the modality `audio` as wav2vec 2.0's feature extractor prepares it: any length, up to ten seconds.

    Args:
        folder: that holds it; a `max_length` in its `preprocessor_config.json` is another limit, in samples.
        optional: whether a sound may be absent.
    """
    extractor = _extractor(folder, "Wav2Vec2FeatureExtractor")
    rate_hz = int(extractor.sampling_rate)
    samples = int(getattr(extractor, "max_length", 0) or _SECONDS * rate_hz)
    return Input(
        modality=_modality(rate_hz, samples, variable=True, length=True, optional=optional),
        processed=lambda raw: extractor(raw, sampling_rate=rate_hz, return_tensors="np")["input_values"],
        probes=_noise(samples, samples * 5 // 8),
        frontend=Standardized() if extractor.do_normalize else None,
    )


def whisper(folder: Folder, frames: int, *, optional: bool = False) -> Input:
    """Return the modality `audio` as Whisper's feature extractor prepares it.

    Args:
        folder: that holds it.
        frames: that the encoder takes.
        optional: whether a sound may be absent.
    """
    extractor = _extractor(folder, "WhisperFeatureExtractor")
    if extractor.dither:
        raise folder.refused("has a processor that adds noise", got=f"dither {extractor.dither}", expected="0")
    if extractor.nb_max_frames != frames:
        raise folder.refused(
            "takes sounds of another length than its processor makes",
            got=f"{extractor.nb_max_frames} frames",
            expected=f"{frames} frames",
            fix="correct chunk_length in preprocessor_config.json",
        )
    rate_hz = int(extractor.sampling_rate)
    basis = waves(_hann(extractor.n_fft, periodic=True), extractor.n_fft)
    mel = MelPower(basis, extractor.mel_filters, extractor.hop_length, centred=True)
    return Input(
        modality=_modality(rate_hz, int(extractor.n_samples), optional=optional),
        processed=lambda raw: extractor(raw, sampling_rate=rate_hz, return_tensors="np")["input_features"],
        probes=_noise(extractor.n_samples, extractor.n_samples * 5 // 8),
        frontend=WhisperLevels(mel, 1e-10, 1 / math.log(10)),
    )


def clap(folder: Folder, *, optional: bool = False) -> Input:
    """Return the modality `audio` as CLAP's feature extractor prepares it: of a longer sound its beginning.

    Args:
        folder: that holds it.
        optional: whether a sound may be absent.
    """
    extractor = _extractor(folder, "ClapFeatureExtractor")
    if extractor.truncation != "rand_trunc" or extractor.padding not in ("repeatpad", "pad"):
        raise folder.refused(
            "has a processor that prepares long or short sounds in a way which is not taken",
            got=f"truncation '{extractor.truncation}', padding '{extractor.padding}'",
            expected="'rand_trunc', 'repeatpad' or 'pad'",
        )
    rate_hz, width = int(extractor.sampling_rate), int(extractor.fft_window_size)
    basis = waves(_hann(width, periodic=True), width)
    mel = MelPower(basis, extractor.mel_filters_slaney, extractor.hop_length, centred=True)
    repeated, samples = extractor.padding == "repeatpad", int(extractor.nb_max_samples)
    return Input(
        modality=_modality(rate_hz, samples, repeated=repeated, optional=optional),
        processed=lambda raw: extractor(raw, sampling_rate=rate_hz, return_tensors="np")["input_features"],
        probes=_noise(samples, samples * 5 // 16),
        frontend=ClapLevels(mel, 1e-10, 10 / math.log(10)),
    )


def spectrogram(folder: Folder, frames: int, mels: int, *, optional: bool = False) -> Input:
    """Return the modality `audio` as AST's feature extractor prepares it: Kaldi's filter bank, padded with zeros.

    Args:
        folder: that holds it.
        frames: that the model takes.
        mels: the same.
        optional: whether a sound may be absent.
    """
    extractor = _extractor(folder, "ASTFeatureExtractor")
    if (extractor.max_length, extractor.num_mel_bins) != (frames, mels):
        raise folder.refused(
            "takes spectrograms of another size than its processor makes",
            got=f"{extractor.max_length} frames of {extractor.num_mel_bins}",
            expected=f"{frames} frames of {mels}",
            fix="correct max_length and num_mel_bins in preprocessor_config.json",
        )
    rate_hz = int(extractor.sampling_rate)
    samples = _AST_WINDOW + _AST_HOP * (frames - 1)
    mel = MelPower(_kaldi_waves(), _kaldi_filters(mels, rate_hz), _AST_HOP, centred=False)
    mean, scale = (extractor.mean, 1 / (2 * extractor.std)) if extractor.do_normalize else (0.0, 1.0)
    return Input(
        modality=_modality(rate_hz, samples, length=True, optional=optional),
        processed=lambda raw: np.asarray(extractor(raw, sampling_rate=rate_hz)["input_values"]),
        probes=_noise(samples, samples * 5 // 8),
        frontend=LogMel(mel, _AST_FLOOR),
        head=Silenced(frames, float(mean), float(scale)),
    )


def _kaldi_waves() -> Array:
    """Return the waves of each bin, over a frame without its mean and with its treble raised.

    Both are linear: the matrix that does them is multiplied with the waves once.
    """
    width = _AST_WINDOW
    emphasis = np.eye(width) - _AST_PREEMPHASIS * np.eye(width, k=-1)
    emphasis[0, 0] -= _AST_PREEMPHASIS
    centring = np.eye(width) - 1 / width
    found: Array = waves(_hann(width, periodic=False), _AST_LENGTH) @ emphasis @ centring
    return found


def _kaldi_filters(mels: int, rate_hz: int) -> Array:
    """Return triangles on Kaldi's mel scale, 1127 ln(1 + f / 700), from 20 Hz to half the rate, [bins, mels]."""

    def mel(hertz: Any) -> Any:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    edges = np.linspace(mel(20.0), mel(rate_hz // 2), mels + 2)
    bins = mel(np.arange(_AST_LENGTH // 2 + 1) * rate_hz / _AST_LENGTH)[:, None]
    rising, falling = (bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]
    found: Array = np.maximum(0.0, np.minimum(rising, falling))
    return found


def _extractor(folder: Folder, kind: str) -> Any:
    extractor = processor_of(folder, "AutoFeatureExtractor")
    if type(extractor).__name__ != kind:
        raise folder.refused("has another processor than its family", got=type(extractor).__name__, expected=kind)
    return extractor


def _modality(
    rate_hz: int,
    samples: int,
    *,
    variable: bool = False,
    length: bool = False,
    repeated: bool = False,
    optional: bool = False,
) -> Modality:
    """Return the modality of PCM.

    Args:
        rate_hz: sampling rate.
        samples: per sound, or at most.
        variable: whether a shorter sound stays shorter.
        length: whether the model is told how many samples there are.
        repeated: whether a shorter sound is repeated.
        optional: whether a sound may be absent.
    """
    kind = RepeatedAudioPreprocess if repeated else AudioPreprocess
    pcm = TensorSpec(name="samples", shape=(1, Bounded(max=samples) if variable else samples))
    preprocess = kind(sample_rate_hz=rate_hz, samples=samples)
    return Modality(name=NAME, tensors=(pcm,), preprocess=preprocess, length=length, optional=optional)


def _noise(*lengths: int) -> list[Array]:
    """Return sounds that have something in every band."""
    random = np.random.default_rng(0)
    return [random.normal(0, 0.1, length).astype(np.float32) for length in lengths]
