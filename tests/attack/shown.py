"""What may be written to a terminal."""

from __future__ import annotations

_ALSO = "\n\u200c\u200d\u0301"  # line ends, and marks that join or stand above letters


def harmless(data: bytes) -> None:
    """Check that nothing written could be a control sequence, or turn text around."""
    text = data.decode("utf-8")
    found = {character for character in text if not character.isprintable() and character not in _ALSO}
    assert not found, f"{found!a} in {text[-500:]!a}"
