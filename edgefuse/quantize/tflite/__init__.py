"""Schemes for TFLite files."""
