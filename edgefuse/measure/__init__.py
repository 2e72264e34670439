"""Clocks and statistics: latency, memory, accuracy by modality subset.

- `statistics`: intervals and percentiles;
- `latency`: interleaved timings;
- `memory`: resident memory and cold start;
- `metrics`: how the figures of a metric read;
- `agreement`: answers against a reference, golden vectors;
- `trial`: stage files opened in a process of their own;
- `golden`: a bundle that must meet its golden vectors to be taken;
- `placement`: where operators ran;
- `rungs`: the rungs of a bundle on this device;
- `generation`: how fast tokens come;
- `benchmark`: `edgefuse bench`.
"""
