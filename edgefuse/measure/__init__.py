"""Clocks and statistics: latency, memory, accuracy by modality subset."""
