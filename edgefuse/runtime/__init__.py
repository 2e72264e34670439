"""What runs on the device.

- `processor`: this machine's CPU;
- `preprocess`: from raw inputs to tensors;
- `backends`: how files run;
- `engines`: TensorRT engines kept on this device;
- `cache`: the feature cache;
- `graph`: the stage graph over opened files;
- `pipeline`: a bundle opened: raw inputs in, a prediction out;
- `prediction`: a prediction;
- `forks`: what a fork leaves to a child;
- `suitability`: whether int8 is exact on this CPU.
"""
