"""OpenVINO on the CPU.

- `api`: OpenVINO's package, imported here alone;
- `indices`: those that it trusts, held within bounds;
- `session`: how a file is opened and run;
- `placement`: in which precision its operators run;
- `backend`: the backend `openvino`.
"""
