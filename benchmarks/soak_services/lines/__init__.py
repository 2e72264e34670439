"""The lines, a module each; see `benchmarks.soak_services`."""
