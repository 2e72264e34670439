"""Indexes of embeddings: what was embedded once, found by what is near to it.

- `encoder`: which files make an embedding of a modality alone, and the embedding;
- `index`: an index opened, checked and searched;
- `graph`: the approximate search of large ones;
- `building`: an index made of items and written.
"""

from edgefuse.runtime.retrieval.building import build
from edgefuse.runtime.retrieval.index import Hit, Index

__all__ = ["Hit", "Index", "build"]
