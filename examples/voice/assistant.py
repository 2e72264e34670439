"""A voice assistant that nothing leaves: `python -m examples.voice.assistant BUNDLE --wav asked.wav --reply reply.wav`.

A microphone or a WAV → where somebody speaks → (if a recogniser is there) what was said → a bundle of the model
`intent`, which fuses sound, text and a picture of the room → a reply, spoken by eSpeak NG. One line of JSON is written
for each utterance.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import wave
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np

import edgefuse
from edgefuse.bundle.spec import ClassOutput
from edgefuse.datasets.dialogue.commands import LANGUAGES
from edgefuse.datasets.digits.espeak import Utterance, synthesise
from edgefuse.datasets.intent.requests import SLOTS
from edgefuse.errors import DataError, EdgefuseError
from edgefuse.files import reason
from edgefuse.runtime.prediction import Prediction
from examples.voice.recognition import RECOGNISERS, Recogniser
from examples.voice.replies import not_understood, reply
from examples.voice.voice_activity import CHUNK, SAMPLE_RATE_HZ, Pcm, chunks_of, utterances

_VOICES = {"en": "en-us", "de": "de", "fr": "fr"}
_CONVERT = "ffmpeg -i SOUND -ar 16000 -ac 1 -c:a pcm_s16le asked.wav"
_FRAMES = 1 << 16  # read at a time, since a WAV out of a pipe claims to have 4 GB


def main() -> int:
    """Answer everything that is said in a file, or to a microphone until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="of the model 'intent'")
    parser.add_argument("--wav", type=Path, help="16 kHz, 16 bits, mono; the microphone if it is left out")
    parser.add_argument("--image", type=Path, help="of the room")
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="in which is answered")
    written = parser.add_mutually_exclusive_group()
    written.add_argument("--recogniser", choices=RECOGNISERS, help="writes down what is said; English only")
    written.add_argument("--text", help="what was typed as well")
    parser.add_argument("--min-score", type=float, default=0.5, help="of an intent that is acted upon")
    parser.add_argument("--reply", type=Path, help="WAV of the last reply")
    arguments = parser.parse_args()
    try:
        recogniser = RECOGNISERS[arguments.recogniser]() if arguments.recogniser else None
        sound = microphone() if arguments.wav is None else chunks_of(read(arguments.wav))
        with edgefuse.load(arguments.bundle) as pipeline:
            check(pipeline)
            heard = False
            for said in utterances(sound):
                answer(pipeline, said, recogniser, arguments)
                heard = True
        if not heard:
            print(f"assistant: nobody speaks in {arguments.wav}", file=sys.stderr)
    except EdgefuseError as error:
        print(f"assistant: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def check(pipeline: edgefuse.Pipeline) -> None:
    """Refuse a bundle of another model.

    Raises:
        DataError: it takes no sound, or has not the outputs, with the labels, that replies are made of.
    """
    model = pipeline.manifest.model
    labels = {output.name: output.labels for output in model.outputs if isinstance(output, ClassOutput)}
    if "audio" not in pipeline.preprocessors or any(labels.get(name) != SLOTS[name] for name in SLOTS):
        raise DataError(
            "the bundle is of another model",
            got=f"one from {', '.join(pipeline.preprocessors)} to {', '.join(one.name for one in model.outputs)}",
            expected=f"one from audio to {', '.join(SLOTS)}",
            fix="edgefuse export examples/intent/recipe.toml --target onnx -o intent.edgefuse",
        )


def answer(pipeline: edgefuse.Pipeline, said: Pcm, recogniser: Recogniser | None, asked: argparse.Namespace) -> None:
    """Answer one utterance: speak, and write a line of what was understood and how long it took.

    Args:
        pipeline: of the bundle.
        said: int16 [samples].
        recogniser: writes it down, if there is one.
        asked: the arguments.
    """
    ended = time.perf_counter()
    text = recogniser(said) if recogniser else asked.text
    written = time.perf_counter()
    given = {"audio": said, "text": text or None, "image": asked.image}
    prediction = pipeline(**{name: value for name, value in given.items() if value is not None})
    labels = labels_of(prediction)
    understood = time.perf_counter()
    sure = prediction.score >= asked.min_score
    spoken = reply(labels, asked.language, datetime.now()) if sure else not_understood(asked.language)
    (pcm,) = synthesise([Utterance(spoken, _VOICES[asked.language], "max")])
    if asked.reply is not None:
        write(asked.reply, pcm)
    ms = {"recognised": written - ended, "understood": understood - written, "spoken": time.perf_counter() - understood}
    line = {
        "text": text,
        **labels,
        "score": round(prediction.score, 3),
        "reply": spoken,
        "ms": {name: round(1e3 * seconds, 1) for name, seconds in ms.items()},
    }
    print(json.dumps(line, ensure_ascii=False), flush=True)


def labels_of(prediction: Prediction) -> dict[str, str]:
    """Return the most probable label of each output."""
    classes = [output for output in prediction.spec if isinstance(output, ClassOutput)]
    return {one.name: one.labels[int(prediction.outputs[one.name].argmax())] for one in classes}


def read(path: Path) -> Pcm:
    """Return the samples of a WAV.

    Raises:
        DataError: it cannot be read, or is not what the network of voice activity takes.
    """
    try:
        with wave.open(str(path)) as file:
            kind = (file.getframerate(), file.getsampwidth(), file.getnchannels())
            frames = b"".join(iter(partial(file.readframes, _FRAMES), b""))
    except (OSError, EOFError, wave.Error) as error:
        got = reason(error) or "a file that ends within its header"
        raise DataError(f"cannot read {path}", got=got, expected="a WAV of 16-bit samples", fix=_CONVERT) from error
    if kind != (SAMPLE_RATE_HZ, 2, 1):
        raise DataError(
            f"{path} is of another kind",
            got=f"{kind[0]} Hz, {8 * kind[1]} bits, {kind[2]} channels",
            expected=f"{SAMPLE_RATE_HZ} Hz, 16 bits, 1 channel",
            fix=_CONVERT,
        )
    return np.frombuffer(frames[: len(frames) // 2 * 2], "<i2").astype(np.int16)  # a file may be cut off in a sample


def write(path: Path, pcm: Pcm) -> None:
    """Write samples as a WAV.

    Raises:
        DataError: the system does not allow it.
    """
    try:
        with path.open("wb") as to, wave.open(to) as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE_HZ)
            file.writeframes(pcm.astype("<i2").tobytes())
    except OSError as error:
        expected = "a file in a folder that is there"
        raise DataError(f"cannot write {path}", got=reason(error), expected=expected) from error


def microphone() -> Iterator[Pcm]:
    """Give the chunks of the default microphone.

    Raises:
        DataError: the package for it is missing, or there is none.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # the latter where PortAudio is missing
        what = "the microphone needs the package 'sounddevice', and on Linux PortAudio"
        raise DataError(what, got=str(error), fix="pip install sounddevice, or give --wav FILE") from error
    try:
        with sounddevice.RawInputStream(SAMPLE_RATE_HZ, CHUNK, dtype="int16", channels=1) as stream:
            while True:
                data, _ = stream.read(CHUNK)
                yield np.frombuffer(bytes(data), np.int16)
    except sounddevice.PortAudioError as error:
        raise DataError("the microphone cannot be opened", got=str(error), fix="give --wav FILE") from error


if __name__ == "__main__":
    sys.exit(main())
