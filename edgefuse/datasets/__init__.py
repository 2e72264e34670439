"""What a data set hands to the compiler."""

from edgefuse.datasets.sample import Sample, Splits, samples

__all__ = ["Sample", "Splits", "samples"]
