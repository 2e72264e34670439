"""`report.json`: a report as it is written, and read.

The JSON has the unit in the names of figures: `p50_ms` and `float_p50_ms`, or `cost` and `float_cost`. In a report of
costs it also calls `stages_ms`, `speedup` and `speedup_over_float` by the names `stages_cost`, `cost_ratio` and
`cost_ratio_to_float`. Unknown keys are ignored: a newer compiler may write more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgefuse.compiler.report.schema import SCHEMA, Report
from edgefuse.errors import EdgefuseError

_IN_COST = {
    "p50_ms": "cost",
    "float_p50_ms": "float_cost",
    "stages_ms": "stages_cost",
    "speedup": "cost_ratio",
    "speedup_over_float": "cost_ratio_to_float",
}


def encode(report: Report) -> bytes:
    """Return a report as JSON."""
    return msgspec.json.format(msgspec.json.encode(spell(report)), indent=2) + b"\n"


def spell(report: Report) -> dict[str, Any]:
    """Return a report as JSON has it: without a word of time where none was measured."""
    found: dict[str, Any] = msgspec.to_builtins(report)
    return _renamed(found, _IN_COST) if report.unit == "cost" else found


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        # What a GPU took is time in every report.
        return {names.get(key, key): item if key == "gpu" else _renamed(item, names) for key, item in value.items()}
    return [_renamed(item, names) for item in value] if isinstance(value, list | tuple) else value


def parse(report: Mapping[str, Any]) -> Report:
    """Check a report as read from JSON and return it typed; `EdgefuseError` if it is wrong or of another schema."""
    if report.get("unit") == "cost":
        report = _renamed(report, {cost: name for name, cost in _IN_COST.items()})
    try:
        typed = msgspec.convert(report, Report)
    except msgspec.ValidationError as error:
        raise EdgefuseError(
            "this is not a report that edgefuse wrote", got=str(error), fix="pass the content of a report.json as it is"
        ) from error
    if typed.schema != SCHEMA:
        raise EdgefuseError(
            "the report is of another version",
            got=f"schema {typed.schema}",
            expected=f"schema {SCHEMA}",
            fix="read it with the version of edgefuse that wrote it",
        )
    return typed
