"""What a compile keeps on disk.

- `reached`: further files and values that a module's code reaches;
- `fingerprint`: hashes of what a result depends on: the parts of cache keys;
- `arrays`: arrays of many samples, read through a memory map.

`edgefuse.datasets.cache` has the entries themselves: locks, seals, folders.
"""
