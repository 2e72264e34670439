"""The artifact: typed manifest, reading, writing, hashing."""
