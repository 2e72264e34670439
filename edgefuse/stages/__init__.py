"""From a model to stages.

- `stage`: one stage in torch;
- `typed`: modules called with the types that they want;
- `repeated`: whether a stage answers alike each time;
- `decoder`: a decoder's part of a model, and its step;
- `streaming`: the steps of a modality that streams;
- `running`: stages run in torch;
- `shapes`: of what a stage gives;
- `explicit`: takes a `FusionModel` apart;
- `found`: takes any other module apart, by what each operation depends on;
- `onnx`: takes an ONNX file apart by the same rule;
- `values`: what inputs look like;
- `examples`: generated inputs;
- `branches`: where a model decides on sizes;
- `padding`: whether a stage depends on it;
- `parametrized`: weights that are computed in every run as plain ones;
- `openness`: what torch would trace otherwise than it is computed;
- `recurrent`: layers over any number of steps, while torch traces them;
- `silence`: libraries that trace kept quiet, and their errors as the user's own line;
- `lines`: the user's own lines behind the operators of a stage whose code torch wrote;
- `agreement`: a file against torch.
"""
