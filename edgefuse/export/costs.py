"""The costs of a lowered stage, counted from its file: arithmetic and memory traffic.

Energy cannot be measured everywhere; these figures are its proxy and are the same on every machine. Memory traffic
counts besides arithmetic since it costs more: at 45 nm an 8-bit multiplication takes 0.2 pJ and a 32-bit float one
3.7 pJ, 64 bits from an 8 kB cache 10 pJ, from a 1 MB cache 100 pJ, from DRAM 1.3 to 2.6 nJ (M. Horowitz, "Computing's
energy problem (and what we can do about it)", ISSCC 2014, doi:10.1109/ISSCC.2014.6757323).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgefuse import registry
from edgefuse.bundle.spec import StageSpec
from edgefuse.export.cost_graph import CostGraph
from edgefuse.export.target import Lowered, Target


@dataclass(frozen=True)
class Costs:
    """The cost of one run of a file at batch 1.

    Attributes:
        mac: multiply-accumulates of convolutions, matrix products and recurrent layers; no other arithmetic.
        bytes_moved: weights read, activations read and written, by element type. An operation reads its inputs and
            writes its outputs once; what runtimes fuse (an activation, a bias, a scale, quantization) costs nothing of
            its own, and a reshape nothing at all. Of an embedding table, only the rows looked up.
        weight_bytes: of all constants, as the file stores them.
        activation_bytes: the largest sum of activations alive at once in the file's order of execution: an estimate of
            the memory that a runtime needs besides the weights; it may need less (in place) or more (work space).
        uncounted: kinds of operations whose size the file does not tell; they are missing from all figures.
    """

    mac: int
    bytes_moved: int
    weight_bytes: int
    activation_bytes: int
    uncounted: tuple[str, ...] = ()


def costs(lowered: Lowered, target: str, spec: StageSpec | None = None) -> Costs:
    """Return the costs of one run of a file.

    Args:
        lowered: the file; a dimension that it leaves open counts with its bound in `spec`, or 1 without.
        target: its name.
        spec: of the stage.

    Raises:
        ExportError: if there is no such target.
    """
    return of_graph(graph(lowered, target, spec))


def of_graph(read: CostGraph) -> Costs:
    """Return the costs of a file that was read."""
    return Costs(read.mac, read.bytes_moved, read.weight_bytes, read.peak_activation_bytes, read.uncounted)


def graph(lowered: Lowered, target: str, spec: StageSpec | None = None) -> CostGraph:
    """Return the operations of a file, with the size of everything they read and write; see `costs`.

    Args:
        lowered: the file and its ports.
        target: its name.
        spec: of the stage: with it, open sizes are the largest ones.
    """
    made: Target = registry.create("targets", target)
    return made.operations(lowered.data, _shapes(lowered, spec))


def _shapes(lowered: Lowered, spec: StageSpec | None) -> Mapping[str, tuple[int, ...]]:
    """Return the largest shape of every input, by its name in the file."""
    bounds = {port.tensor.name: port.tensor.max_shape for port in spec.inputs} if spec else {}
    return {
        binding.tensor: tuple(
            bound if size < 0 else size
            for size, bound in zip(binding.shape, bounds.get(binding.port, (1,) * len(binding.shape)), strict=True)
        )
        for binding in lowered.inputs
    }
