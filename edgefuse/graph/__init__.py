"""The stage graph of a model: what depends on what (`StageGraph`), what of it runs now (`Plan`), and the one executor.

It knows names and wiring, not arrays: the values that pass through may be numpy's, torch's or anything else.
"""

from edgefuse.graph.plan import Plan, Step, Zeros
from edgefuse.graph.stage_graph import StageGraph

__all__ = ["Plan", "StageGraph", "Step", "Zeros"]
