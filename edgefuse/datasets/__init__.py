"""The data of the reference models."""
