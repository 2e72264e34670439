"""What became of every push."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counts:
    """What became of the pushes of one modality: `used + dropped + late + waiting == pushed`, at any time.

    A push is one item: a chunk of a series, a picture, a text. Nothing waits any more when the stream is closed.

    Attributes:
        pushed: items that were handed over.
        used: at least one prediction saw them, or a part of them.
        late: came when newer data had taken their place, or with a time that fits the clock in no way.
        dropped: reached no prediction for any other reason: newer ones pushed them out, or one of these:
        stale: of the dropped: were older than the maximum age before a prediction could see them.
        duplicates: of the dropped: had come before.
        refused: of the dropped: were no valid input; `push` raised an error.
        jumps: of the clock, ahead or back.
        lost_s: seconds of a series that never came, and are zeros in its windows.
    """

    pushed: int = 0
    used: int = 0
    late: int = 0
    dropped: int = 0
    stale: int = 0
    duplicates: int = 0
    refused: int = 0
    jumps: int = 0
    lost_s: float = 0.0

    @property
    def waiting(self) -> int:
        """Items that a prediction may still see first."""
        return self.pushed - self.used - self.late - self.dropped

    def drop(self, *, stale: bool = False, duplicate: bool = False, refused: bool = False) -> None:
        """Count an item that reaches no prediction.

        Args:
            stale: since it is too old.
            duplicate: since it had come before.
            refused: since it is no valid input.
        """
        self.dropped += 1
        self.stale += stale
        self.duplicates += duplicate
        self.refused += refused
