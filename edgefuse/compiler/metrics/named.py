"""A metric by its name, for an output of a model."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from edgefuse.bundle.spec import (
    ArrayOutput,
    ClassOutput,
    EmbeddingOutput,
    LabelsOutput,
    ModelSpec,
    Output,
    TokensOutput,
    ValuesOutput,
)
from edgefuse.compiler.metrics import classes, embeddings, fidelity, labels, tokens, values
from edgefuse.compiler.metrics.metric import Asked, Metric
from edgefuse.compiler.metrics.own import own
from edgefuse.errors import ModelError

logger = logging.getLogger(__name__)

KINDS: Mapping[type[Output], tuple[str, Mapping[str, Metric]]] = MappingProxyType(
    {
        ClassOutput: ("accuracy", {**classes.METRICS, **fidelity.CLASSES}),
        LabelsOutput: ("macro_f1", {**labels.METRICS, **fidelity.DECISIONS}),
        ValuesOutput: ("mae", {**values.METRICS, **fidelity.VALUES}),
        EmbeddingOutput: ("mse", {**embeddings.METRICS, **fidelity.VALUES}),
        TokensOutput: ("token_accuracy", {**tokens.METRICS, **fidelity.DECISIONS}),
        ArrayOutput: ("mse", {**values.METRICS, **fidelity.VALUES}),
    }
)
"""What judges an output of each kind unless its spec says something else, and all that could."""

_RENAMED = MappingProxyType({"negative_mae": "mae", "negative_mse": "mse"})
"""Names from before an error had its own sign: they are read, and the metric goes by the new one."""

_PAIRED = "recall@10"
"""What judges an embedding that is to find another output's, by default."""


def metrics_of(spec: ModelSpec, folder: Path) -> dict[str, Metric]:
    """Return what judges each output of a model, if it has targets, by name.

    Args:
        spec: of the model.
        folder: where the user's own metrics are looked for first.

    Raises:
        ModelError: if there is no such metric for an output, or it cannot be imported.
    """
    first = spec.outputs[0]
    if spec.metric and first.metric and spec.metric != first.metric:
        raise ModelError(
            f"the model '{spec.name}' names two metrics for its first output",
            got=f"metric='{spec.metric}' of the model, '{first.metric}' of the output '{first.name}'",
            expected="one of them",
        )
    others = {output.name: metric_of(output, output.metric, folder) for output in spec.outputs[1:]}
    found = {first.name: metric_of(first, spec.metric or first.metric, folder), **others}
    known = {output.name: output for output in spec.outputs}
    for output in spec.outputs:
        pair = getattr(output, "pair", "")
        if pair and not isinstance(known.get(pair), EmbeddingOutput):
            raise ModelError(
                f"the output '{output.name}' is to find one that is no embedding of the model",
                got=repr(pair),
                expected=" or ".join(n for n, o in known.items() if isinstance(o, EmbeddingOutput) and o != output),
            )
    return found


def metric_of(output: Output, name: str = "", folder: Path | None = None) -> Metric:
    """Return a metric of an output.

    Args:
        output: that it judges.
        name: of the metric, as `accuracy`, `recall@10` or `module:callable`; the default of its kind if empty.
        folder: where the user's own are looked for first; the current one if None.

    Raises:
        ModelError: if there is none.
    """
    default, known = KINDS[type(output)]
    pair = getattr(output, "pair", "")
    name = name or (_PAIRED if pair else default)
    if name in _RENAMED:
        old, name = name, _RENAMED[name]
        logger.warning("the metric '%s' is called '%s': the error itself, of which less is better", old, name)
    if ":" in name:
        return replace(own(name, folder or Path()), name=name, asked=Asked(output))
    found = re.fullmatch(r"(\w+)(?:@([1-9][0-9]{0,5}))?", name)
    key = f"{found[1]}@k" if found and found[2] else name
    if found is None or key not in known or key.endswith("@k") != bool(found[2]):
        raise ModelError(
            f"there is no such metric of the output '{output.name}' ({output.__struct_config__.tag})",
            got=repr(name),
            expected=f"{' or '.join(sorted(known))}, or your own 'module:callable'",
        )
    metric = replace(known[key], name=name, asked=Asked(output, int(found[2] or 1)))
    if pair and metric.against != "index":
        raise ModelError(
            f"the output '{output.name}' is to find '{pair}', which its metric does not judge",
            got=repr(name),
            expected="recall@k or mean_rank",
        )
    return replace(metric, against="pair") if pair else metric
