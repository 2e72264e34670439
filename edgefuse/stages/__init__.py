"""From a model to stages.

- `stage`: one stage in torch;
- `explicit`: takes a `FusionModel` apart;
- `examples`: generated inputs;
- `agreement`: a file against torch.
"""
