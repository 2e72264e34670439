"""Running statistics of activations (`ranges`), and the ranges chosen from them (`calibrators`)."""
