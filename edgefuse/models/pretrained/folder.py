"""The files of a folder, and the models and processors of the library `transformers` that are made of them.

Every call of the library goes through `offline`: it reads files, it does not look anything up, and it says nothing.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from edgefuse.errors import EdgefuseError, ModelError, cited, needing
from edgefuse.files import read_regular, reason

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_MAX_JSON_BYTES = 1 << 24
_SHOWN = 3
T = TypeVar("T", dict[str, Any], list[Any])
FACTORY = "write a factory that returns the module and a ModelSpec, and name it as [model] factory"


@dataclass(frozen=True)
class Folder:
    """A folder that holds a model of the library, with weights that can be read without running anything.

    Attributes:
        path: of the folder.
        settings: what stands in its `config.json`.
    """

    path: Path
    settings: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The family of the model, as the library calls it: `clip`."""
        return str(self.settings.get("model_type", ""))

    @property
    def architecture(self) -> str:
        """The class that was saved; empty if the folder does not say."""
        names = self.settings.get("architectures")
        return str(names[0]) if isinstance(names, list) and names else ""

    def json(self, name: str, kind: type[T]) -> T:
        """Return what a JSON file of the folder holds, or an empty object or list if there is no such file.

        Args:
            name: of the file, below the folder.
            kind: of what it holds: `dict` or `list`.

        Raises:
            ModelError: if it cannot be read, or holds something else.
        """
        found = _json(self.path / name)
        if found is None:
            return kind()
        if not isinstance(found, kind):
            raise self.refused(
                f"has a {name} that holds something else", got=type(found).__name__, expected=kind.__name__
            )
        return found

    def refused(self, what: str, *, got: object = None, expected: object = None, fix: str = FACTORY) -> ModelError:
        """Return the error that says why this model is not taken.

        Args:
            what: is wrong, as a clause with a verb.
            got: what was found.
            expected: what was expected.
            fix: what to do.
        """
        return ModelError(f"the pretrained model {self.path} {what}", got=got, expected=expected, fix=fix)


def opened(path: Path) -> Folder:
    """Return a folder whose files can be used.

    Raises:
        ModelError: if there is none, it lacks its configuration or its weights, or wants code of its own to be run.
    """
    if not path.is_dir():
        raise ModelError(
            f"there is no folder {path} of a pretrained model",
            got="a file" if path.exists() else "nothing",
            fix="save the model and its processor there with save_pretrained; nothing is downloaded",
        )
    settings = _json(path / CONFIG)
    if not isinstance(settings, dict):
        raise ModelError(
            f"the pretrained model {path} has no configuration",
            got=f"no {CONFIG}" if settings is None else f"a {CONFIG} that holds no object",
            expected="a folder as save_pretrained writes it",
        )
    folder = Folder(path, settings)
    if "auto_map" in settings:
        raise folder.refused("is code of its own, which is not run", got=f"'auto_map' in {CONFIG}")
    if not ((path / WEIGHTS).exists() or (path / INDEX).exists()):
        pickled = sorted(file.name for pattern in _PICKLED for file in path.glob(pattern))
        load = f"AutoModel.from_pretrained('{path.name}').save_pretrained('{path.name}')"
        raise folder.refused(
            "has its weights only in a form that may run code" if pickled else "has no weights",
            got=", ".join(pickled[:_SHOWN]) or f"no {WEIGHTS}",
            expected=f"{WEIGHTS}, or shards with {INDEX}",
            fix=f"if you trust them, convert them once, by the model's own class: {load}" if pickled else "save them",
        )
    return folder


def _json(path: Path) -> Any:
    try:
        return json.loads(read_regular(path, _MAX_JSON_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(f"cannot read {path} of a pretrained model", got=reason(error)) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} of a pretrained model is not JSON", got=cited(error)) from error


def model_of(folder: Folder, kind: str, unused: tuple[str, ...] = ()) -> Any:
    """Return a model of the library with the folder's weights, in float32 and in eval mode.

    Args:
        folder: that holds it.
        kind: the class, by its name in the library.
        unused: beginnings of names of weights that need not be there.

    Raises:
        ModelError: if the library cannot make it of the folder, or some of its weights are not there.
    """
    with offline(f"the weights of the pretrained model {folder.path} cannot be loaded") as hf:
        model, found = getattr(hf, kind).from_pretrained(
            folder.path, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **_LOCAL
        )
    lacking = sorted(name for name in found["missing_keys"] if not name.startswith(unused or ("\0",)))
    if lacking:
        raise folder.refused(f"lacks weights of {kind}", got=_some(lacking), fix="save the model whole")
    return model.eval()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def processor_of(folder: Folder, kind: str, **options: object) -> Any:
    """Return a tokenizer, an image processor or a feature extractor of the folder.

    Args:
        folder: that holds it.
        kind: `AutoTokenizer`, `AutoImageProcessor` or `AutoFeatureExtractor`.
        options: of the library.

    Raises:
        ModelError: if there is none, or it cannot be read.
    """
    if kind != "AutoTokenizer" and not any((folder.path / name).exists() for name in PROCESSORS):
        raise folder.refused("has no processor", got=f"no {PROCESSORS[0]}", fix="save its processor there, too")
    what = "tokenizer" if kind == "AutoTokenizer" else "processor"
    with offline(f"the {what} of the pretrained model {folder.path} cannot be made of its files") as hf:
        return getattr(hf, kind).from_pretrained(folder.path, **_LOCAL, **options)


_LOCAL: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}


@contextmanager
def offline(failed: str) -> Iterator[Any]:
    """Give the library within the block, where it reaches no network and writes to no terminal.

    Args:
        failed: what did, should anything be raised within: `ModelError` says so, and cites it.
    """
    with _silent():
        with needing("a pretrained model", extra="hf"):
            import transformers
            from huggingface_hub import constants
        bars: Any = transformers.utils.logging
        before = constants.HF_HUB_OFFLINE
        shown = bars.is_progress_bar_enabled()
        constants.HF_HUB_OFFLINE = True
        bars.disable_progress_bar()
        try:
            yield transformers
        except EdgefuseError:
            raise
        except Exception as error:  # the library raises what it likes
            raise ModelError(failed, got=cited(error)) from error
        finally:
            constants.HF_HUB_OFFLINE = before
            if shown:
                bars.enable_progress_bar()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep warnings and logs of the library, and of all that it imports, from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
