"""The stage graph of a model as a value, and the one executor of its wiring.

It knows names and wiring, not arrays: the values that pass through may be numpy's, torch's or anything else.

- `plan`: `Plan`: which stages one run takes, and what it reuses;
- `decoding`: a decoder's step, repeated;
- `stage_graph`: `StageGraph`: the stages in order, `plan` and `run`.
"""

from edgefuse.graph.plan import Plan, Step, Zeros
from edgefuse.graph.stage_graph import StageGraph

__all__ = ["Plan", "StageGraph", "Step", "Zeros"]
