"""What a lowered stage costs, counted from its file."""
