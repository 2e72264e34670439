"""What the reference models share, for use in a source checkout: it is not in the wheel.

- `weights`: their files;
- `batches`: from samples to tensors;
- `loop`: a step of a training, and the loop over epochs.
"""
