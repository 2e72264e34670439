"""From a model to stages.

- `stage`: one stage in torch;
- `explicit`: takes a `FusionModel` apart;
- `values`: what inputs look like;
- `examples`: generated inputs;
- `padding`: whether a stage depends on it;
- `agreement`: a file against torch.
"""
