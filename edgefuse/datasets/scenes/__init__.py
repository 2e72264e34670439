"""The data sets of the reference models `vqa` and `captioning`, for use in a source checkout: not in the wheel.

- `names`: what things and colours are called, and what answers there are;
- `material`: real pictures of digits and clothes, a part for each split;
- `composition`: which things are where in a scene, and its picture;
- `questions`: questions about a scene with their answers, and what can be guessed without looking;
- `captions`: sentences about a scene and their beginnings, and what can be guessed without looking;
- `items`: the data sets.
"""

from edgefuse.datasets.digits.pool import SPLITS
from edgefuse.datasets.scenes.items import (
    CaptionItems,
    QuestionItems,
    Scenes,
    Settings,
    caption_items,
    load_captions,
    load_questions,
    question_items,
)

__all__ = [
    "SPLITS",
    "CaptionItems",
    "QuestionItems",
    "Scenes",
    "Settings",
    "caption_items",
    "load_captions",
    "load_questions",
    "question_items",
]
