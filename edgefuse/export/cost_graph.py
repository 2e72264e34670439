"""A lowered file as costs need it: tensors of known size, and operations that read and write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Family: TypeAlias = Literal["", "norm", "softmax", "curve", "sum", "pool", "convolution"]
"""What an operator computes, as far as that decides whether it is quantized; empty for what moves values."""


@dataclass(frozen=True)
class Operation:
    """The work of one kernel of a runtime.

    Attributes:
        kind: the operator in the target's own words: `Conv`, `CONV_2D`.
        name: of the node, or of what it writes.
        reads: names of tensors.
        writes: names of tensors.
        mac: multiply-accumulates.
        integer: whether it computes on integers of 8 bits or fewer.
        half: whether it computes on float16.
        family: of the operator: normalization, softmax, activation function, sum or scale, pool or mean, convolution.
        table: the tensor among `reads` of which only as much is read as is written (a table's rows); empty if none.
    """

    kind: str
    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    mac: int = 0
    integer: bool = False
    table: str = ""
    half: bool = False
    family: Family = ""


@dataclass(frozen=True)
class Roofline:
    """The most that a processor does in a cycle.

    Attributes:
        name: of the processor, in the words of reports.
        architecture: of the machine that it is in.
        float32, float16, int8: multiply-accumulates.
        bytes: streamed from memory.
    """

    name: str
    architecture: str
    float32: int
    float16: int
    int8: int
    bytes: int


@dataclass(frozen=True)
class CostGraph:
    """Operations in the order of execution.

    Attributes:
        sizes: bytes of every tensor, constants included.
        constants: the tensors that are there before the first run.
        inputs: of the file.
        outputs: of the file.
        weight_bytes: of all constants, as stored.
        uncounted: kinds of operations whose size is not known from the file, in order of appearance.
    """

    sizes: Mapping[str, float]
    constants: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    weight_bytes: int
    uncounted: tuple[str, ...] = ()

    @property
    def mac(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(operation.mac for operation in self.operations)

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written in one run, every operation reading its inputs and writing its outputs once."""
        return round(sum(self.traffic(operation) for operation in self.operations))

    def traffic(self, operation: Operation) -> float:
        """Return the bytes that an operation reads and writes."""
        written = sum(self.sizes[name] for name in operation.writes)
        read = sum(self.sizes[name] for name in dict.fromkeys(operation.reads) if name != operation.table)
        return read + written * (2 if operation.table else 1)

    def cost(self, roofline: Roofline) -> float:
        """Return what one run takes on a processor, by its roofline; a million float32 multiply-accumulates take 1.

        Of every operation, that is the larger of what its multiply-accumulates and the bytes that it moves would take
        alone (S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore
        architectures", CACM 52(4), 2009, doi:10.1145/1498765.1498785).
        """
        cycles = 0.0
        for operation in self.operations:
            floats = roofline.float16 if operation.half else roofline.float32
            mac_per_cycle = roofline.int8 if operation.integer else floats
            cycles += max(operation.mac / mac_per_cycle, self.traffic(operation) / roofline.bytes)
        return cycles * roofline.float32 / 1e6

    @property
    def peak_activation_bytes(self) -> int:
        """The largest sum of activations that are alive at once, in this order, nothing computed in place."""
        steps = len(self.operations)
        last = dict.fromkeys(self.inputs, 0)
        for step, operation in enumerate(self.operations):
            last |= dict.fromkeys((*operation.reads, *operation.writes), step)
        last |= dict.fromkeys(self.outputs, steps)
        alive = set(self.inputs) - self.constants
        peak = sum(self.sizes[name] for name in alive)
        for step, operation in enumerate(self.operations):
            alive |= set(operation.writes) - self.constants
            peak = max(peak, sum(self.sizes[name] for name in alive))
            alive -= {name for name in alive if last[name] <= step}
        return round(peak)
