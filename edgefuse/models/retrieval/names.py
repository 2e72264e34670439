"""What ImageNet's 1,000 classes are called, in the order in which classifiers give them."""

from __future__ import annotations

from edgefuse.datasets.packages import fetch

_TIMM = ("timm", "1.0.31")
_SYNSETS = (
    *_TIMM,
    *("timm/data/_info/imagenet_synsets.txt", "70002b0ff5de60a3a17a82dbfcff291931f96225ddf941ad2e182fc39e183d15"),
)
_LEMMAS = (
    *_TIMM,
    *(
        "timm/data/_info/imagenet_synset_to_lemma.txt",
        "1b8babda187421a4bde0c9c5a197c36f6bdda962f7ca11ffb2813806cbb2178f",
    ),
)


def class_names() -> tuple[str, ...]:
    """Return WordNet's words for each class, such as `tench, Tinca tinca`.

    Raises:
        DataError: the package that holds them (timm, Apache-2.0) cannot be fetched.
    """
    lines = fetch(*_LEMMAS).read_text(encoding="utf-8").splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines)
    return tuple(lemmas[synset] for synset in fetch(*_SYNSETS).read_text(encoding="utf-8").split())
