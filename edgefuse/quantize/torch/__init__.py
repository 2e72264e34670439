"""What is done to a stage in torch before it is lowered.

- `balance`: activation ranges evened out between layers;
- `fitting`: weights rounded by GPTQ.
"""
