"""Run a function in a fresh process, to see its cold start and its peak memory undisturbed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgefuse.errors import MeasureError
from edgefuse.measure.memory import peak_rss_bytes

_MARK = "edgefuse-child:"


@dataclass(frozen=True)
class Report:
    """What a child came back with.

    Attributes:
        value: what the function returned, through JSON.
        peak_rss_bytes: of the child at its end.
    """

    value: Any
    peak_rss_bytes: int


def call(function: Callable[..., Any], **arguments: Any) -> Report:
    """Call a function in a fresh interpreter.

    What the function's module imports counts in the child's memory: keep it light.

    Args:
        function: at the top level of an importable module.
        arguments: its keywords; they and the result pass through JSON.

    Raises:
        MeasureError: if the child fails; its last line says why.
    """
    request = json.dumps({"module": function.__module__, "name": function.__qualname__, "arguments": arguments})
    command = [sys.executable, "-c", "import edgefuse.measure.child as child; child.answer()"]
    child = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
    for line in child.stdout.splitlines():
        if line.startswith(_MARK):
            answer: Mapping[str, Any] = json.loads(line.removeprefix(_MARK))
            return Report(answer["value"], answer["peak_rss_bytes"])
    reason = (child.stderr.strip().splitlines() or ["no message"])[-1]
    raise MeasureError(
        f"the child process that runs '{function.__qualname__}' ended with {child.returncode}", got=reason
    )


def answer() -> None:
    """Do in the child what `call` asks for on stdin."""
    request = json.load(sys.stdin)
    function = getattr(importlib.import_module(request["module"]), request["name"])
    value = function(**request["arguments"])
    sys.stdout.write(_MARK + json.dumps({"value": value, "peak_rss_bytes": peak_rss_bytes()}) + "\n")
