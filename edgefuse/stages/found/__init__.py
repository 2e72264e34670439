"""The stages of a model that nobody took apart, from what each operation depends on.

- `naming`: under which names a module's `forward` takes the modalities' tensors;
- `calling`: the module called by these names, in the types that it wants, and its outputs picked;
- `traced`: its graph of torch's operators, without what does nothing;
- `costs`: multiply-accumulates and bytes of a node;
- `dependence`: the modalities that each node depends on;
- `cut`: where the fewest bytes cross;
- `parts`: which nodes are whose, and what crosses;
- `wiring`: names of ports, and where each value comes from;
- `lowering`: a part as a module, whole submodules kept;
- `chain`: the parts run one after the other, and held to the module;
- `record`: what was found, and what is decided alike wherever it is searched for;
- `generating`: a module with a decoder: all before that is found;
- `found`: the steps in order.
"""

from edgefuse.stages.found.found import find
from edgefuse.stages.found.record import Found

__all__ = ["Found", "find"]
