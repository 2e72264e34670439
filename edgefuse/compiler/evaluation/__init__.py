"""What files and torch answer over a split (`evaluator`), and the full-precision reference (`reference`)."""
