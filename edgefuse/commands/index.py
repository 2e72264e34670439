"""`edgefuse index`: embed files, and write an index of them for `edgefuse run --index`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.spec import AudioPreprocess, ImagePreprocess, Modality, TextPreprocess
from edgefuse.commands import console, terminal
from edgefuse.commands.ending import as_interrupted
from edgefuse.commands.quieting import quiet_libraries
from edgefuse.errors import InputError
from edgefuse.files import read_regular, reason
from edgefuse.progress import Progress
from edgefuse.runtime.pipeline import Inputs, Pipeline, load
from edgefuse.runtime.preprocess.array_file import read_array
from edgefuse.runtime.retrieval.building import Failed, build

_MAX_TEXT_BYTES = 256 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "A folder stands for all files below it, hidden ones apart. Of a modality of text, each line of a file that is "
        "not blank is an item. A file that cannot be read is named and left out, and the exit code is 1."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="INDEX", help="the index, a folder")
    parser.add_argument("--modality", help="what the files are for (default: the model's first one)")
    parser.add_argument("--rung", help="the operating point (default: the bundle's)")
    parser.add_argument("--threads", type=int, default=1, help="threads for inference (default: 1)")
    parser.add_argument("--backend", help="another backend than the bundle names")
    parser.add_argument("--digest", help="the digest that the bundle must have")
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Embed every item; 1 if some file is left out."""
    left_out: list[tuple[str, str]] = []

    def failed(name: str, error: InputError) -> None:
        left_out.append((name, str(error)))
        terminal.complain(f"left out: {name}: {error}")

    with as_interrupted(), open_bundle(arguments.bundle, digest=arguments.digest) as bundle:
        spec = bundle.manifest.model
        modality = spec.modality(arguments.modality) if arguments.modality else spec.modalities[0]
        files = list(_files(arguments.files))
        pipeline = load(bundle, rung=arguments.rung, threads=arguments.threads, backend=arguments.backend, cache=False)
        with pipeline, console.drawn_progress() as progress:
            items = _prepared(_items(files, modality, progress, failed), pipeline, modality.name, failed)
            with build(arguments.out, pipeline, items, modality=modality.name, failed=failed) as index:
                count, size = len(index), index.record.size
    if arguments.json:
        named = [{"name": name, "reason": why} for name, why in left_out]
        console.write_json({"index": str(arguments.out), "items": count, "size": size, "left_out": named})
    else:
        lost = f"; {len(left_out)} left out" if left_out else ""
        console.write(f"{count} of '{modality.name}' in {arguments.out}, {size} numbers each{lost}")
    return 1 if left_out else 0


def _files(given: Iterable[Path]) -> Iterator[Path]:
    """Yield the files, and those below the folders, in the order of their names."""
    for path in given:
        if not path.is_dir():
            yield path
            continue
        for folder, below, names in os.walk(path):
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _items(
    files: Sequence[Path], modality: Modality, progress: Progress, failed: Failed
) -> Iterator[tuple[str, object]]:
    """Yield the name of each item, and what a pipeline takes; a line is named as grep does, and by its text."""
    for done, path in enumerate(files):
        progress(done, len(files), "embed files")
        try:
            if isinstance(modality.preprocess, TextPreprocess):
                yield from _lines(path)
            elif isinstance(modality.preprocess, ImagePreprocess | AudioPreprocess):
                yield str(path), path
            else:
                yield str(path), read_array(path, modality.name)
        except InputError as error:
            failed(str(path), error)


def _lines(path: Path) -> Iterator[tuple[str, object]]:
    try:
        text = read_regular(path, _MAX_TEXT_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise InputError("the text cannot be read", got=reason(error)) from error
    except UnicodeDecodeError as error:
        raise InputError("the text is not UTF-8", got=f"byte {error.start}: {error.reason}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}: {line.strip()}", line.strip()


def _prepared(
    items: Iterable[tuple[str, object]], pipeline: Pipeline, modality: str, failed: Failed
) -> Iterator[tuple[str, Inputs]]:
    """Yield items as tensors; progress is drawn outside of what is kept from stderr."""
    for name, raw in items:
        try:
            with quiet_libraries():
                inputs = pipeline.preprocess(**{modality: raw})
        except InputError as error:
            failed(name, error)
            continue
        yield name, inputs
