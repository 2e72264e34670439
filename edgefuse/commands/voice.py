"""What `edgefuse serve --wyoming` takes, and the service that it starts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from edgefuse.errors import needing

if TYPE_CHECKING:
    from edgefuse.runtime.live import Live
    from edgefuse.serve.queue import Queue
    from edgefuse.serve.wyoming.background import Background


def add_voice_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments beside `--wyoming` itself."""
    voice = parser.add_argument_group("voice assistants (--wyoming)")
    voice.add_argument(
        "--asr", metavar="URI", help="a Wyoming speech recogniser: be one in its place, and hear how it is said"
    )
    voice.add_argument(
        "--language", action="append", metavar="CODE", help="a language of the model; may be repeated (default: en)"
    )
    voice.add_argument(
        "--threshold", type=float, default=0.5, metavar="P", help="of an intent's probability (default: 0.5)"
    )
    voice.add_argument("--exposed", action="store_true", help="let other machines in: there is no password")
    voice.add_argument("--announce", metavar="NAME", help="tell the local network of it under this name (zeroconf)")


def need_voice() -> None:
    """Import what the service takes.

    Raises:
        MissingExtraError: a library is not installed.
    """
    with needing("serving voice assistants", extra="serve"):
        import edgefuse.serve.wyoming.background  # noqa: F401


def start_voice(arguments: argparse.Namespace, queue: Queue, live: Live) -> Background:
    """Start the service that the arguments ask for.

    Args:
        arguments: those above, `wyoming`: the URI to listen at, and `timeout`: seconds until an answer.
        queue: in front of the model.
        live: the pipeline that answers.

    Raises:
        InputError: an argument is wrong, or the model cannot answer a voice assistant.
        MissingExtraError: zeroconf is to announce it, and is not installed.
    """
    from edgefuse.serve.wyoming.background import Background
    from edgefuse.serve.wyoming.limits import Limits
    from edgefuse.serve.wyoming.settings import Settings

    settings = Settings(
        languages=tuple(arguments.language or ("en",)),
        threshold=arguments.threshold,
        recogniser=arguments.asr,
        exposed=arguments.exposed,
        announced=arguments.announce,
        limits=Limits(answer_s=arguments.timeout),
    )
    return Background(arguments.wyoming, queue, live, settings)
