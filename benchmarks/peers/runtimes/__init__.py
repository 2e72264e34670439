"""How files run: `open_file(path, subject)` returns a call from feeds to the first output, on one thread."""
