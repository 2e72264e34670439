"""What a data set hands to the compiler.

- `sample`: `Sample` and `Splits`;
- `packages`: files out of packages of the Python package index;
- `seal`: sizes and hashes of a folder;
- `cache`: the cache: entries by key, locked and sealed;
- `digits`: the data of the reference model `digits`;
- `stamps`: the data of the reference model `assistant`;
- `clothing`: the data of the reference model `classifier`;
- `sentiment`: the data of the reference model `sentiment`;
- `sequence`: the data of the reference model `seq2seq`;
- `scenes`: the data of the reference models `vqa` and `captioning`;
- `dialogue`: the data of the reference model `dialogue`;
- `intent`: the data of the reference model `intent`.
"""

from edgefuse.datasets.sample import Sample, Splits, samples

__all__ = ["Sample", "Splits", "samples"]
