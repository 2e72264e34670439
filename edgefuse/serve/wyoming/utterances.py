"""The last utterance that was heard, for the text that belongs to it.

Home Assistant sends sound to a speech-to-text service and then, over another connection, text to a conversation agent,
and no identifier says that both are of one utterance. So the text does: it is the transcript that we gave. What could
be of two speakers is not kept at all.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from edgefuse.serve.wyoming.sound import Sound


@dataclass(eq=False)
class Stream:
    """Sound that is being heard.

    Attributes:
        alone: no other was heard meanwhile, so far.
    """

    alone: bool = True


class Utterances:
    """Keeps at most one utterance, in memory, for a stated time; for one event loop.

    Args:
        keep_s: for how long.
    """

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._open: set[Stream] = set()
        self._kept: tuple[str, Sound] | None = None
        self._forgetting: asyncio.TimerHandle | None = None

    @property
    def streams(self) -> int:
        """How many are being heard."""
        return len(self._open)

    def begin(self) -> Stream:
        """Say that a stream begins. If another one is heard, neither is kept, nor what was before them."""
        stream = Stream(alone=not self._open)
        if not stream.alone:
            self.forget()
            for other in self._open:
                other.alone = False
        self._open.add(stream)
        return stream

    def end(self, stream: Stream, text: str = "", sound: Sound | None = None) -> None:
        """Say that a stream has ended, and keep its sound for its text.

        It is not kept where it was not alone, or where an earlier one with the same text waits: either could be meant.

        Args:
            stream: that `begin` gave; one that has ended is not looked at again.
            text: its transcript, if there is one.
            sound: what was heard.
        """
        if stream not in self._open:
            return
        self._open.remove(stream)
        text = text.strip()
        if not (stream.alone and text) or sound is None:
            return
        twice = self._kept is not None and self._kept[0] == text
        self.forget()
        if not twice:
            self._kept = text, sound
            self._forgetting = asyncio.get_running_loop().call_later(self._keep_s, self.forget)

    def take(self, text: str) -> Sound | None:
        """Return the sound of a text, once; None if there is none."""
        if self._kept is None or self._kept[0] != text.strip():
            return None
        sound = self._kept[1]
        self.forget()
        return sound

    def forget(self) -> None:
        """Let go of what is kept."""
        self._kept = None
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None
