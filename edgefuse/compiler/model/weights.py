"""The weights of a model, as people have them, fitted to it.

Checkpoints are unwrapped, the prefixes of wrappers taken off, and half precision is raised to what the model has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from edgefuse.compiler.model.weight_files import State, read
from edgefuse.errors import RecipeError, cited, some

WRAPPINGS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params")
"""Under which names checkpoints keep the state of the model, beside those of optimizers and schedulers."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What `DataParallel`, `torch.compile` and `LightningModule` put before every name."""

_DEPTH = 3
"""How many wrappings, or prefixes, lie in each other."""

_SPELLINGS = 20


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file of weights into a model.

    Args:
        model: takes them; its types stay.
        path: of a safetensors file, of the index of several, or of what `torch.save` wrote.

    Raises:
        RecipeError: if the file is missing, damaged, of another kind, or does not fit the model.
    """
    state = _unwrapped(read(path))
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    state = _spelled_like(state, wanted.keys())
    _require_numbers(path, state, wanted)
    try:
        found = model.load_state_dict(state, strict=False)
    except Exception as error:
        why = _differing_shapes(state, wanted) or [cited(error)]
        raise RecipeError(_misfit(path, why)) from error
    if found is not None:  # by a model's own `load_state_dict`
        _require_all(path, model, state, found.missing_keys, found.unexpected_keys)


# What stands where.


def _unwrapped(state: State) -> State:
    """Return the state of the model out of a checkpoint that holds it under a name."""
    for _ in range(_DEPTH):
        inner = next((key for key in WRAPPINGS if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = {str(name): value for name, value in state[inner].items()}
    return state


def _spelled_like(state: State, wanted: Iterable[str]) -> State:
    """Return a state by the names of the model: the first spelling of which all are, else that with the most."""
    names = set(wanted)
    spelled = max(_spellings(tuple(state), names), key=lambda one: len(names.intersection(one)))
    return dict(zip(spelled, state.values(), strict=True))


def _spellings(names: tuple[str, ...], wanted: set[str]) -> Iterator[tuple[str, ...]]:
    """Yield names as they are, then with prefixes taken off, or put before them where the model has them."""
    tried = [names]
    for spelled in tried:  # which grows
        yield spelled
        if len(tried) > _SPELLINGS:
            return
        others = [tuple(name.replace("_orig_mod.", "") for name in spelled)]
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in spelled):
                others.append(tuple(name.removeprefix(prefix) for name in spelled))
            if all(name.startswith(prefix) for name in wanted):
                others.append(tuple(prefix + name for name in spelled))
        tried += [other for other in others if other not in tried and len(set(other)) == len(names)]


# Fitting.


def _require_numbers(path: Path, state: State, wanted: Mapping[str, Tensor]) -> None:
    """Refuse what is no tensor, or whose values mean something else: integers of a quantized file, for one."""
    odd = [
        f"{name} is {_kind(value)}, where the model has {_kind(wanted[name])}"
        for name, value in state.items()
        if name in wanted and _family(value) != _family(wanted[name])
    ]
    if odd:
        raise RecipeError(_misfit(path, [some(odd)]))
    if not any(isinstance(value, Tensor) for value in state.values()):
        held = f"only {some(state)}" if state else "nothing"
        raise RecipeError(
            f"the weights {path} hold no tensors by name",
            got=held,
            expected=f"a state dict, or a checkpoint with one under {', '.join(WRAPPINGS[:4])}",
        )


def _kind(value: object) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else type(value).__name__


def _family(value: object) -> str:
    if not isinstance(value, Tensor):
        return "no tensor"
    return "complex" if value.is_complex() else "real" if value.is_floating_point() else "integer"


def _differing_shapes(state: State, wanted: Mapping[str, Tensor]) -> list[str]:
    found = [
        f"{name} {list(value.shape)} where the model has {list(wanted[name].shape)}"
        for name, value in state.items()
        if name in wanted and isinstance(value, Tensor) and value.shape != wanted[name].shape
    ]
    return [f"other shapes: {some(found)}"] if found else []


def _require_all(path: Path, model: nn.Module, state: State, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Refuse names that do not fit. What shares its memory with a loaded one (tied weights) is there, too.

    Args:
        path: of the file.
        model: that was loaded.
        state: by the model's names.
        missing: names of the model that the file lacks.
        unexpected: names of the file that the model lacks.
    """
    places = {name: value.data_ptr() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    loaded = {places[name] for name in state if name in places}
    lacking = [name for name in missing if places.get(name) not in loaded]
    why = [f"missing: {some(lacking)}"] if lacking else []
    if surplus := list(unexpected):
        why.append(f"unexpected: {some(surplus)}")
    if not why:
        return
    index = next(iter(sorted(path.parent.glob("*.index.json"))), None) if lacking and not surplus else None
    fix = f'name the index of all shards, weights = "{index.name}"' if index else None
    raise RecipeError(_misfit(path, why), fix=fix)


def _misfit(path: Path, why: Iterable[str]) -> str:
    return f"the weights {path} do not fit the model: {'; '.join(why)}"
