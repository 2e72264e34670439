"""A model taken apart, its data made ready, and both checked against each other.

- `budget`: what may be lost of each output's metric;
- `subject`: what is compiled: a model, and a model with data;
- `observation`: what inputs look like;
- `weight_files`: files of weights, of all kinds that people have;
- `weights`: fits them to a model;
- `given`: a model and data at hand, in place of what a recipe names;
- `calibration`: samples at hand, without labels and without a digest;
- `onnx_file`: an ONNX file in place of a torch module, with its spec;
- `opening`: builds the model and takes it apart;
- `samples`: checks of one sample;
- `targets`: its targets, by output;
- `given_tokens`: the tokens that a decoder is given;
- `splits`: splits preprocessed and kept on disk;
- `preparation`: checks of the data as a whole, and all of that in order.
"""
