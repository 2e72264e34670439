"""One file per runtime; found by name through entry points."""
