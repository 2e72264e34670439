"""Calibration and post-training quantization schemes."""
