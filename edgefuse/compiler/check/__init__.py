"""What would stand in the way of a compile, found in seconds: the work of `edgefuse check`, and the head of `compile`.

- `record`: what a check found;
- `sizes`: parameters, multiply-accumulates, and bytes that cross;
- `data`: faults of the data, all of them;
- `answers`: what torch answers to samples;
- `batches`: whether a batch answers like its samples one by one;
- `padding`: whether a stage depends on padding;
- `lowering`: what each target cannot lower, asked of the lowering itself;
- `pruning`: what prunes, asked of the pruners themselves;
- `budget`: limits that nothing can hold;
- `estimate`: how long the compile takes, and in how much memory;
- `checking`: all of that in order.
"""
