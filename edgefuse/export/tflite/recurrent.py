"""Trace recurrent layers as one operator per layer and direction, where litert-torch would unroll every step.

An unrolled layer of 150 steps is thousands of operators, minutes of conversion, and a file of twice its weights. Here
the projection of the inputs of all steps becomes one matrix product, and what depends on the step before becomes the
operator `edgefuse::recurrence`. It passes through litert-torch as a custom operator of LiteRT, which
`recurrent_loops` replaces by a WHILE in the finished file. Modules stay as they are: while a stage is traced,
`RecurrentLayers` catches the calls that `nn.LSTM`, `nn.GRU` and `nn.RNN` make.

Cells as in torch's documentation: Hochreiter and Schmidhuber, "Long short-term memory", 1997; Cho et al., "Learning
phrase representations using RNN encoder-decoder", 2014, with the reset gate behind the product, as cuDNN has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from edgefuse.errors import ExportError

CODE = "edgefuse.recurrence"
"""The custom operator that stands for a loop in a file between conversion and `recurrent_loops`."""

_CELLS: dict[Any, str] = {torch.lstm: "lstm", torch.gru: "gru", torch.rnn_tanh: "rnn_tanh", torch.rnn_relu: "rnn_relu"}
_SCHEMA = "(str cell, Tensor inputs, Tensor weight, Tensor? bias, Tensor[] states, bool reverse) -> Tensor[]"


@torch.library.custom_op("edgefuse::recurrence", mutates_args=(), schema=_SCHEMA)
def recurrence(
    cell: str, inputs: Tensor, weight: Tensor, bias: Tensor | None, states: Sequence[Tensor], reverse: bool
) -> list[Tensor]:
    """Run one direction of one recurrent layer over projected inputs.

    Args:
        cell: `lstm`, `gru`, `rnn_tanh` or `rnn_relu`.
        inputs: float32 [steps, batch, gates * hidden], the inputs times their weights, in torch's order of gates.
        weight: float32 [gates * hidden, hidden].
        bias: float32 [gates * hidden], added to the product of state and weight.
        states: float32 [batch, hidden]: hidden state, and cell state of an LSTM.
        reverse: whether to start from the last step.

    Returns:
        Hidden states of all steps, float32 [steps, batch, hidden], and the last states.
    """
    outputs = inputs.new_empty(*inputs.shape[:2], weight.shape[1])
    steps = range(inputs.shape[0])
    for step in reversed(steps) if reverse else steps:
        states = _STEPS[cell](inputs[step], linear(states[0], weight, bias), *states)
        outputs[step] = states[0]
    return [outputs, *states]


@recurrence.register_fake
def _(
    cell: str, inputs: Tensor, weight: Tensor, bias: Tensor | None, states: Sequence[Tensor], reverse: bool
) -> list[Tensor]:
    outputs = inputs.new_empty(*inputs.shape[:2], weight.shape[1])
    return [outputs, *(torch.empty_like(state) for state in states)]


def _lstm(projected: Tensor, product: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
    write, keep, candidate, read = (projected + product).chunk(4, dim=-1)
    cell = keep.sigmoid() * cell + write.sigmoid() * candidate.tanh()
    return read.sigmoid() * cell.tanh(), cell


def _gru(projected: Tensor, product: Tensor, hidden: Tensor) -> tuple[Tensor, ...]:
    parts = zip(projected.chunk(3, dim=-1), product.chunk(3, dim=-1), strict=True)
    (reset, own_reset), (keep, own_keep), (candidate, own) = parts
    candidate = (candidate + (reset + own_reset).sigmoid() * own).tanh()
    return (candidate + (keep + own_keep).sigmoid() * (hidden - candidate),)


_STEPS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": lambda projected, product, hidden: ((projected + product).tanh(),),
    "rnn_relu": lambda projected, product, hidden: ((projected + product).relu(),),
}


class RecurrentLayers(TorchFunctionMode):
    """Within it, recurrent layers run as `edgefuse::recurrence`.

    Args:
        stage: the name of the stage being traced, for errors.
    """

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = stage

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, or what stands in its place.

        Raises:
            ExportError: for a packed sequence, or a number of steps that is not fixed.
        """
        if func is torch._pack_padded_sequence:
            raise ExportError(
                f"the stage '{self._stage}' packs a sequence, which LiteRT cannot",
                got="pack_padded_sequence",
                expected="the padded sequence and its lengths",
                fix="flip the valid steps with gather and mask what follows them, as docs/recurrent.md shows",
            )
        if func in _CELLS:
            return self._run(_CELLS[func], *args)
        return func(*args, **(kwargs or {}))

    def _run(self, cell: str, x: Tensor, states: Any, weights: Sequence[Tensor], biased: bool, *rest: Any) -> Any:
        """Run what torch's functions run, with their arguments; `states` is a pair for an LSTM."""
        layers, _, _, bidirectional, batch_first = rest
        directions = 2 if bidirectional else 1
        x = x.transpose(0, 1) if batch_first else x
        states = list(states) if cell == "lstm" else [states]
        self._check(x.shape[0])
        parts = [_parts(weights[start:], biased) for start in range(0, len(weights), 4 if biased else 2)]
        last: list[list[Tensor]] = []
        for layer in range(layers):
            outputs = []
            for index in range(layer * directions, (layer + 1) * directions):
                begin = [state[index] for state in states]
                y, *end = _run_direction(cell, x, parts[index], begin, reverse=index % directions == 1)
                outputs.append(y)
                last.append(end)
            x = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
        ends = [torch.stack(state) for state in zip(*last, strict=True)]
        return (x.transpose(0, 1) if batch_first else x), *ends

    def _check(self, steps: Any) -> None:
        if not isinstance(steps, int):
            raise ExportError(
                f"the stage '{self._stage}' has a recurrent layer whose number of steps depends on the input",
                got=f"{steps} steps",
                expected="a fixed number",
                fix="run the layer over the whole padded sequence and select the valid steps by 'length'",
            )


def _parts(weights: Sequence[Tensor], biased: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return weights of inputs and of states, and their biases, of one layer and direction."""
    return (weights[0], weights[1], *weights[2:4]) if biased else (weights[0], weights[1], None, None)  # type: ignore[return-value]


def _run_direction(
    cell: str, x: Tensor, parts: tuple[Any, ...], states: list[Tensor], *, reverse: bool
) -> list[Tensor]:
    weight, own_weight, bias, own_bias = parts
    if cell != "gru" and bias is not None:  # only a GRU scales its product before it adds the rest
        bias, own_bias = bias + own_bias, None
    y: list[Tensor] = torch.ops.edgefuse.recurrence(
        cell, linear(x, weight, bias), own_weight, own_bias, states, reverse
    )
    return y


def is_recurrent(program: ExportedProgram) -> bool:
    """Tell whether a traced stage has recurrent layers."""
    return any(node.target is OPERATOR for node in program.graph.nodes)


OPERATOR = torch.ops.edgefuse.recurrence.default


def register_lowering() -> None:
    """Teach litert-torch to pass `edgefuse::recurrence` on as a custom operator of LiteRT.

    Raises:
        ExportError: if the installed litert-torch lacks the private interface that this needs.
    """
    try:
        from litert_converter.mlir import ir  # type: ignore[import-untyped]
        from litert_torch.backend import lowerings

        register, create, parse = lowerings.lower, ir.Operation.create, ir.Attribute.parse
    except (ImportError, AttributeError) as error:
        raise ExportError(
            "edgefuse cannot hand recurrent layers to the installed litert-torch",
            got=f"litert-torch {version('litert-torch')}, litert-converter {version('litert-converter')}: {error}",
            expected="litert-torch 0.10, litert-converter 0.5",
            fix="install the versions that edgefuse[compile] names",
        ) from error

    def lower(context: Any, cell: str, inputs: Any, weight: Any, bias: Any, states: Any, reverse: bool) -> list[Any]:
        shapes = [list(value.shape) for value in context.node.meta["val"]]
        attributes = {
            "custom_code": ir.StringAttr.get(f"{CODE}.{cell}.{'reverse' if reverse else 'forward'}"),
            "custom_option": parse('#tfl<const_bytes : "0x">'),
        }
        operands = [inputs, weight, *states, *([] if bias is None else [bias])]
        types = [ir.RankedTensorType.get(shape, ir.F32Type.get()) for shape in shapes]
        return list(create("tfl.custom", results=types, operands=operands, attributes=attributes).results)

    register(OPERATOR)(lower)
