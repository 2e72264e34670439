"""Stages as graphs and build plans for TensorRT."""
