"""A folder of a pretrained model, as Hugging Face's libraries save it, as a model that can be compiled.

Module, modalities and preprocessing come from the folder: what its processor does becomes typed preprocessing and a
frontend in the graph, which are held to the processor itself before anything else. Nothing is downloaded, and no code
of a folder is run.

- `folder`: the files of a folder, and the models and processors of the library that are made of them;
- `inputs`: what a modality needs, and whether it gives what the processor gives;
- `pictures`: image processors;
- `sounds`: feature extractors;
- `texts`: tokenizers;
- `encoders`: the parts that the library's models are put together from here;
- `families`: which kinds of models there are, and how each is taken apart.
"""

from edgefuse.models.pretrained.families import build

__all__ = ["build"]
