"""What runs on the device.

- `processor`: this machine's CPU;
- `quota`: what the system lets this process use;
- `pressure`: how busy the machine is;
- `signals`: the device: which machine it is, its condition, what rungs cost on it;
- `preprocess`: from raw inputs to tensors;
- `backends`: how files run;
- `numbers`: numbers that settings are given as;
- `cache`: the feature cache;
- `generation`: from logits to tokens, and to text;
- `decoding`: a decoder's step, repeated;
- `generating`: tokens of one input, as they are made;
- `turns`: who waits for the runtime is served in order;
- `side_by_side`: encoders in two threads, where that was measured to be faster;
- `graph`: the stage graph over opened files;
- `incremental`: a modality encoded chunk by chunk;
- `opened`: a bundle opened: what the pipelines at its rungs share;
- `pipeline`: its view at a rung: raw inputs in, a prediction out;
- `prediction`: a prediction;
- `contributions`: what each modality added to it;
- `stream`: timed inputs over a pipeline, and predictions as they come due;
- `live`: the pipeline of a running process, and how another takes its place;
- `control`: the local command that asks for it;
- `ladder`: which rung runs now;
- `retrieval`: indexes of embeddings;
- `forks`: what a fork leaves to a child;
- `suitability`: whether int8 is exact on this CPU.
"""
