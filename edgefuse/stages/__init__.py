"""From a model to stages.

- `stage`: one stage in torch;
- `explicit`: takes a `FusionModel` apart;
- `found`: takes any other module apart, by what each operation depends on;
- `examples`: generated inputs;
- `silence`: libraries that trace kept quiet, and their errors as the user's own line;
- `agreement`: a file against torch.
"""
