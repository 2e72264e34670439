"""All entries of the zoo, by name."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.zoo import fusions, sensors, strangers, systems, transformers_models
from benchmarks.zoo.entry import Entry

_ALL = (*transformers_models.ENTRIES, *systems.ENTRIES, *fusions.ENTRIES, *sensors.ENTRIES, *strangers.ENTRIES)

ENTRIES: Mapping[str, Entry] = {entry.name: entry for entry in _ALL}
