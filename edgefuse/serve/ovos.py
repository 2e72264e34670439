"""A transformer of utterances for OpenVoiceOS: the intent of a bundle in the context of every utterance.

Its plugin manager finds it as `edgefuse-intent` among the entry points `opm.transformer.text`; `mycroft.conf` says
which bundle:

    {"utterance_transformers": {"edgefuse-intent": {"bundle": "/srv/intent.edgefuse"}}}

The utterances are left as they are. What goes wrong is a line in the assistant's log, without what was said, and the
assistant goes on without it.
"""

from __future__ import annotations

from typing import Any

from edgefuse.errors import EdgefuseError, InputError, needing
from edgefuse.runtime.live import Live
from edgefuse.serve.intents import recognise
from edgefuse.serve.wyoming.roles import Roles, roles_of

with needing("the plugin for OpenVoiceOS", extra="ovos"):
    from ovos_plugin_manager.templates.transformers import UtteranceTransformer
    from ovos_utils.log import LOG

NAME = "edgefuse-intent"
"""Of the entry point, and of its section in `mycroft.conf`."""
CONTEXT = "edgefuse"
"""The key that it adds to the context."""
_KEYS = ("bundle", "digest", "rung", "backend", "threads", "threshold")
_OF_THE_MANAGER = ("active", "lang", "module", "priority")


class IntentInContext(UtteranceTransformer):  # type: ignore[misc] # the manager has no types
    """Adds `{"edgefuse": {"intent", "slots", "probability", "digest"}}` to the context of an utterance.

    `intent` is null where none is probable enough; `slots` are labels by the names of the model's other outputs.

    Args:
        config: `bundle`, its path; and, each with a default, `digest`, `rung`, `backend`, `threads` (1) and
            `threshold` (0.5), the probability below which nothing is told. None: the section of `mycroft.conf`.
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        super().__init__(NAME, config=config)
        self._live: Live | None = None
        try:
            self._open(dict(self.config))
        except EdgefuseError as error:
            self.default_shutdown()
            LOG.error(f"{NAME} does nothing: {error}")

    def _open(self, config: dict[str, Any]) -> None:
        for key in config:
            if key not in (*_KEYS, *_OF_THE_MANAGER):
                raise InputError("there is no such key", got=repr(key), expected=", ".join(_KEYS))
        path, threshold, threads = config.get("bundle"), config.get("threshold", 0.5), config.get("threads", 1)
        if not isinstance(path, str) or not path:
            raise InputError("the key 'bundle' names no bundle", got=repr(path), expected="a path")
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise InputError("the key 'threshold' is no probability", got=repr(threshold), expected="0 to 1")
        if isinstance(threads, bool) or not isinstance(threads, int):
            raise InputError("the key 'threads' is no number of threads", got=repr(threads), expected="1 or more")
        self._threshold = float(threshold)
        self._live = Live(
            path,
            config.get("digest"),
            rung=config.get("rung"),
            backend=config.get("backend"),
            threads=threads,
            cache=False,  # no features of what was said are kept
        )
        self._roles: Roles = roles_of(self._live.pipeline.manifest.model, hears=False)
        if self._roles.replies:
            raise InputError("the bundle names no intent", got="a model that makes words", expected="one of classes")

    def transform(
        self, utterances: list[str], context: dict[str, Any] | None = None
    ) -> tuple[list[str], dict[str, Any]]:
        """Return the utterances as they are, and what the model takes the first one for.

        Args:
            utterances: what was said, the most probable hearing first.
            context: of the message so far; it is not changed.
        """
        live = self._live
        if live is None or not utterances:
            return utterances, {}
        try:
            pipeline = live.pipeline
            found = recognise(pipeline, {self._roles.text: utterances[0]}, self._threshold)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - the assistant goes on, also after a panic in a runtime
            LOG.error(f"{NAME} tells nothing of an utterance: {type(error).__name__}")
            return utterances, {}
        told = {"intent": found.intent, "slots": found.slots, "probability": found.probability}
        return utterances, {CONTEXT: told | {"digest": pipeline.digest}}

    def default_shutdown(self) -> None:
        """Close the bundle. Twice is harmless."""
        live, self._live = self._live, None
        if live is not None:
            live.close()
