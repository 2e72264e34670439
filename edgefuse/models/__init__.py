"""FusionModel and the reference models."""
