"""What files and torch answer over a split, and what was lost.

- `runners`: what runs a stage over samples: a file, or torch;
- `passes`: passes of encoders over a split, by workers;
- `evaluator`: features of encoders, and fusion passes over them;
- `drops`: the metric of each output by subset, and its drop against the reference;
- `expected_drop`: what is lost of accuracy, where labels are few;
- `sentences`: what a model that makes tokens says by itself;
- `correction`: drops on the validation set, corrected by it;
- `guesses`: subsets in which the reference only guesses;
- `budget`: what may be lost, in numbers, by what the reference reaches;
- `reference`: the full-precision reference in torch;
- `inductor`: the folder of torch's compiler.
"""
