"""What is done to a stage in torch before it is lowered: balanced, fitted, trained through its rounding."""
