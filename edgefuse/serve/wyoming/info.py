"""The answer to `describe`, made of the manifest alone: it never waits for the model."""

from __future__ import annotations

from importlib.metadata import version

from wyoming.event import Event
from wyoming.info import (
    AsrModel,
    AsrProgram,
    Attribution,
    HandleModel,
    HandleProgram,
    Info,
    IntentModel,
    IntentProgram,
)

from edgefuse.bundle.manifest import Manifest
from edgefuse.serve.wyoming.roles import Roles
from edgefuse.serve.wyoming.settings import Settings

_VERSION = version("edgefuse")
_MAKER = Attribution(name="edgefuse", url="")
_INTENT = "Intents from text, and from how it was said"
_REPLY = "Replies to text, and to how it was said"
_HEARD = "Speech to text by another service; keeps the utterance for the intent"


def described(manifest: Manifest, roles: Roles, settings: Settings) -> Event:
    """Return the programs that a service offers, as an event.

    Args:
        manifest: of the bundle that answers now: its weights are the version of the model.
        roles: what the model can do.
        settings: the languages, and whether there is a recogniser.
    """
    name, weights, languages = manifest.model.name, manifest.provenance.weights_sha256[:12], list(settings.languages)
    info = Info()
    if roles.replies:
        reply = HandleModel(name, _MAKER, True, _REPLY, weights, languages)
        info.handle = [HandleProgram("edgefuse", _MAKER, True, _REPLY, _VERSION, [reply], True)]
    else:
        intent = IntentModel(name, _MAKER, True, _INTENT, weights, languages)
        info.intent = [IntentProgram("edgefuse", _MAKER, True, _INTENT, _VERSION, [intent])]
    if settings.recogniser is not None:
        heard = AsrModel(name, _MAKER, True, _HEARD, weights, languages)
        info.asr = [AsrProgram("edgefuse", _MAKER, True, _HEARD, _VERSION, [heard])]
    return info.event()
