"""What is kept on disk: arrays of many samples (`arrays`), and hashes of what a result depends on (`fingerprint`)."""
