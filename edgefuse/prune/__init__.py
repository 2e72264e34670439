"""Pruning: structured and unstructured methods, and recovery by distillation from the unpruned model."""
