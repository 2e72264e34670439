"""Why the walk over a stage file ends early."""

from __future__ import annotations


class RefusedError(Exception):
    """Why a file is refused, as the end of a sentence that begins with its name."""
