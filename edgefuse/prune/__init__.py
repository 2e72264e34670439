"""Pruning: structured and unstructured methods, and recovery by distillation from the unpruned model.

- `pruner`: the protocol of a pruning method;
- `leaves`: layers that the dependency graph cannot look into;
- `widths`: which channels go together;
- `importance`: which channels matter;
- `structured`: the method `structured`;
- `heads`: heads of attention;
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
