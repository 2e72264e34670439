"""What only ONNX Runtime wants.

- `stem`: strided convolutions over few channels;
- `linear`: linear layers over sequences;
- `recurrent`: LSTMs;
- `dynamic`: the scheme `dynamic_wi8_af32`;
- `int4`: weights in four bits.
"""
