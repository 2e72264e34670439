"""The record of `benchmarks/gpu.py` as tables; nothing but the standard library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOT_RUN = "not run"
SYSTEMS = {
    "digits": (
        *("eager float32", "eager tf32", "eager float16", "torch.compile float32"),
        *("CUDA graph float32", "CUDA graph tf32", "CUDA graph float16"),
    ),
    "assistant": ("eager float32", "eager tf32"),
}
"""What is measured in torch, by model; what else is there is added."""

_HEAD = "| | batch 1, p50 | of it computing | card filled, predictions/s | largest error against the CPU |"
_RULE = "|---|--:|--:|--:|--:|"


def markdown(record: Mapping[str, Any] | None) -> str:
    """Return a record as a sentence and a table; without one, every cell says that it was not run."""
    if record is None:
        names = [f"{model} {system}" for model, systems in SYSTEMS.items() for system in systems]
        empty = [f"| {name} |{f' {NOT_RUN} |' * 4}" for name in names]
        return "\n".join(
            ("Not run: no machine with a GPU was at hand. `make gpu` fills this table.", "", _HEAD, _RULE, *empty)
        )
    lines = [_facts(record), ""]
    for model in record["models"]:
        lines += [f"`{model['name']}`: weights {model['weights']}; {_filled(model['filled'])}.", "", _HEAD, _RULE]
        lines += [_line(model, system) for system in dict.fromkeys(row["system"] for row in model["rows"])]
        lines += [""]
    lines += [f"{part['name']}: {part['outcome']}." for part in record["parts"]]
    return "\n".join(lines).rstrip()


def _facts(record: Mapping[str, Any]) -> str:
    device = (
        record["device"]["name"] if record["is_gpu"] else f"NO GPU, a CPU in its place ({record['device']['name']})"
    )
    driver = (record["clocks"]["before"] or {}).get("driver_version")
    facts = [device, f"driver {driver}" if driver else "driver unknown"]
    facts += [f"{name} {record['versions'][name]}" for name in ("torch", "cuda") if name in record["versions"]]
    return f"{', '.join(facts)}: `{record['command']}`, {record['made']}."


def _filled(filled: Mapping[str, Any] | None) -> str:
    return f"filled at batch {filled['batch']} ({filled['why']})" if filled else "never filled"


def _line(model: Mapping[str, Any], system: str) -> str:
    rows = {row["batch"]: row for row in model["rows"] if row["system"] == system}
    one, full = rows.get(1), rows[max(rows)]
    errors = [row["max_abs_error"] for row in rows.values() if row["max_abs_error"] is not None]
    over = any(row["agrees"] is False for row in rows.values())
    error = f"{max(errors):.1e}{' (beyond its tolerance)' if over else ''}" if errors else "–"
    cells = [_time(one, "whole"), _time(one, "compute"), _rate(full), error]
    why = next((f" ({row['error']})".replace("|", "\\|") for row in rows.values() if row["error"]), "")
    return f"| {system}{why} | {' | '.join(cells)} |"


def _time(row: Mapping[str, Any] | None, key: str) -> str:
    if row is None or row[key] is None:
        return "–"
    low, high = row[key]["ci95"]
    return f"{row[key]['p50_ms']:.3f} ms [{low:.3f}, {high:.3f}]{' (busy)' if row[key]['marked'] else ''}"


def _rate(row: Mapping[str, Any]) -> str:
    return "–" if row["items_per_s"] is None else f"{row['items_per_s']:,.0f} (batch {row['batch']})"
