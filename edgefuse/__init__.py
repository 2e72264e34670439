"""edgefuse: an edge-deployment compiler for multimodal fusion models."""

from __future__ import annotations

__version__ = "0.1.0"
