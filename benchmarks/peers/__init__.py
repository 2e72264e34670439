"""Other tools on the same model, data, machine and thread: `python -m benchmarks.peers --out out/peers.json`.

Each peer is one file in `quantizers/` and a line per setting in `catalogue.py`; it works and runs in an environment of
its own, made from `requirements/`.
"""
