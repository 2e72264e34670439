"""What is kept on disk (`cache`), under hashes of all that it depends on (`fingerprint`)."""
