"""The artifact: typed manifest, reading, writing, hashing. All that build host and device share.

`reader.open_bundle` and `writer.write_bundle` are the way in and out; docs/bundle-format.md specifies the format.

- `outputs`: what a model gives, as typed data;
- `tensors`: names, types and shapes;
- `spec`: modalities, outputs and stages as typed data;
- `scheme`: the grammar of precisions;
- `manifest`: the typed manifest;
- `manifest_1`: that of schema 1;
- `codec`: `manifest.json` to the typed manifest and back;
- `wiring`: checks of the model and its stages;
- `decoders`: checks of a stage that makes tokens;
- `streamed`: checks of modalities that stream;
- `validation`: checks of the whole manifest;
- `layout`: paths and limits of both containers;
- `containers`: a folder and an archive;
- `writer`: writes a bundle;
- `reader`: opens a bundle;
- `stage_files`: which stage files are checked, by format;
- `onnx`: checks of ONNX files;
- `tflite`: checks of TFLite files;
- `tokenizer`: checks of `tokenizer.json`;
- `refusal`: the exception of those checks.
"""
