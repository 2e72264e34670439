"""Pruning: structured and unstructured methods, and recovery by distillation from the unpruned model.

- `pruner`: the protocol of a pruning method;
- `generated`: training examples made from a stage's spec alone;
- `multihead`: `nn.MultiheadAttention` with fewer heads;
- `leaves`: layers that the dependency graph cannot look into;
- `dependencies`: the graph of channels that go together, as Torch-Pruning builds it;
- `widths`: which channels go together;
- `importance`: which channels matter;
- `sizes`: sizes that a forward pass writes down, pinned;
- `observation`: what a forward pass does with linear layers and attention;
- `attention`: an attention whose heads are rows of linear layers;
- `hypotheses`: which sizes go with the number of its heads;
- `recognition`: attention found by what it computes;
- `heads`: heads of attention;
- `narrowing`: what can be narrowed inside a stage, and narrowing it;
- `trial`: which of that bears it;
- `structured`: the method `structured`;
- `hidden`: the method `hidden`;
- `depth`: the method `depth`;
- `unstructured`: the methods `magnitude` and `semi_structured`;
- `vocabulary`: the method `vocabulary`;
- `schedule`: large ratios in steps;
- `distillation`: the losses of recovery;
- `training`: the loop of recovery;
- `checkpoint`: checkpoints of that loop;
- `recovery`: the recovery of one stage;
- `persist`: a pruned module as bytes.
"""
