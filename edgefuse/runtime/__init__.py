"""What runs on the device.

`preprocess` makes tensors of raw inputs, `backends` run files (`engines` keeps what TensorRT builds), `cache` keeps
features, `graph` runs the stages of a rung, `opened` has what all rungs of a bundle share, `pipeline` is its view at
one of them, `prediction` the answer. `forks` and `processor` are about this process and its CPU; `suitability`,
`signals` and `pressure` about what the device can bear.
"""
