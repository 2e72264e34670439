"""The lines of `make soak`, a module each; the first line of its docstring says what it must show."""
