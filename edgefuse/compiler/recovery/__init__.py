"""Pruned stages: how much (`distribute`), on what (`batches`), made (`forms`), interfaces too (`narrowing`)."""
