"""Files of weights as people have them, and those that are refused in one sentence."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.model.weights import load_weights
from edgefuse.errors import RecipeError

State: TypeAlias = dict[str, Tensor]
Writer: TypeAlias = Callable[[State, Path], str]


class Net(nn.Module):
    """Two layers of which the second is used twice, and statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.second = nn.Linear(4, 4, bias=False)
        self.again = nn.Linear(4, 4, bias=False)
        self.again.weight = self.second.weight


def net(seed: int) -> Net:
    torch.manual_seed(seed)
    made = Net()
    with torch.no_grad():
        for parameter in made.parameters():  # values that half precision holds
            parameter.copy_(parameter.mul(64).round().div(64))
    return made


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def safe(state: State, folder: Path) -> str:
    save_file({name: value for name, value in state.items() if name != "again.weight"}, folder / "w.safetensors")
    return "w.safetensors"


def plain(state: State, folder: Path) -> str:
    torch.save(state, folder / "w.pth")
    return "w.pth"


def old_format(state: State, folder: Path) -> str:
    torch.save(state, folder / "w.pt", _use_new_zipfile_serialization=False)
    return "w.pt"


def parallel(state: State, folder: Path) -> str:
    torch.save({"model": prefixed(state, "module."), "epoch": 3, "best": np.float64(0.5)}, folder / "w.pt")
    return "w.pt"


def lightning(state: State, folder: Path) -> str:
    kept = {
        "state_dict": prefixed(state, "model."),
        "hyper_parameters": argparse.Namespace(rate=0.1, place=Path("runs")),
        "callbacks": collections.defaultdict(int, best=3),
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3)}}}],
    }
    torch.save(kept, folder / "last.ckpt")
    return "last.ckpt"


def compiled_in_parallel(state: State, folder: Path) -> str:
    torch.save({"model_state_dict": prefixed(state, "module._orig_mod."), "epoch": 3}, folder / "w.bin")
    return "w.bin"


def compiled_inside(state: State, folder: Path) -> str:
    torch.save({name.replace("first.", "first._orig_mod."): value for name, value in state.items()}, folder / "w.pt")
    return "w.pt"


def half(state: State, folder: Path) -> str:
    kinds = {"first.weight": torch.bfloat16, "first.bias": torch.float16}
    torch.save({name: value.to(kinds.get(name, value.dtype)) for name, value in state.items()}, folder / "w.pt")
    return "w.pt"


def shards(state: State, folder: Path) -> str:
    names = {name: f"model-0000{1 + ('second' in name)}-of-00002.safetensors" for name in state if name[0] != "a"}
    for file in set(names.values()):
        save_file({name: value for name, value in state.items() if names.get(name) == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return "model.safetensors.index.json"


def misnamed(state: State, folder: Path) -> str:
    (folder / plain(state, folder)).rename(folder / "w.safetensors")
    return "w.safetensors"


@pytest.mark.parametrize(
    "write",
    [safe, plain, old_format, parallel, lightning, compiled_in_parallel, compiled_inside, half, shards, misnamed],
)
def test_weights_in_any_disguise_are_the_same_weights(write: Writer, tmp_path: Path) -> None:
    wanted, found = net(0), net(1)
    load_weights(found, tmp_path / write(wanted.state_dict(), tmp_path))
    assert {value.dtype for value in found.parameters()} == {torch.float32}
    assert fingerprint.of_module(found) == fingerprint.of_module(wanted)  # what caches know a model by


def test_a_model_that_wraps_another_takes_its_weights(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

    found = Wrapped(net(1))
    load_weights(found, tmp_path / plain(net(0).state_dict(), tmp_path))
    assert torch.equal(found.state_dict()["model.first.bias"], net(0).first.bias)


def refused(model: nn.Module, path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_that_do_not_fit_say_what_is_missing_unexpected_and_of_another_shape(tmp_path: Path) -> None:
    state = net(0).state_dict()
    renamed = {name.replace("first.", "layer."): value for name, value in state.items()}
    said = refused(net(0), tmp_path / plain(renamed, tmp_path))
    assert said.endswith(
        "do not fit the model: missing: first.weight, first.bias; unexpected: layer.weight, layer.bias."
    )
    said = refused(net(0), tmp_path / parallel({"first.bias": state["first.bias"]}, tmp_path))
    assert "missing: first.weight, norm.weight, norm.bias and " in said
    assert "unexpected" not in said
    wider = state | {"first.weight": torch.zeros(4, 7)}
    said = refused(net(0), tmp_path / plain(wider, tmp_path))
    assert said.endswith("do not fit the model: other shapes: first.weight [4, 7] where the model has [4, 6].")
    bytes_ = state | {"first.weight": torch.zeros(4, 6, dtype=torch.int8)}
    said = refused(net(0), tmp_path / plain(bytes_, tmp_path))
    assert said.endswith("do not fit the model: first.weight is int8, where the model has float32.")


def test_one_shard_of_several_names_the_index(tmp_path: Path) -> None:
    shards(net(0).state_dict(), tmp_path)
    said = refused(net(0), tmp_path / "model-00001-of-00002.safetensors")
    assert 'Fix: name the index of all shards, weights = "model.safetensors.index.json".' in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight_map": {"first.weight": "../w.safetensors"}}, "names a shard elsewhere: got '../w.safetensors'"),
        ({"weight_map": {"first.weight": "gone.safetensors"}}, "are missing: got no file "),
        ({"weight_map": {"first.weight": "w.safetensors.index.json"}}, "names an index as a shard"),
        ({"weight_map": {"first.weight": "other.index.json"}}, "names an index as a shard"),  # which names it again
        ({"weight_map": {"first.weight": "a\0b"}}, "names a shard elsewhere: got "),
        ({"weight_map": {"nothing": "w.safetensors"}}, "lack what it lists: got nothing."),
        ({"weight_map": [1]}, "are no index of shards: got Expected `object`, got `array`"),
        ({"labels": ["a"]}, "are no index of shards: got Expected `object`, got `null`"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    safe(net(0).state_dict(), tmp_path)
    (tmp_path / "w.safetensors.index.json").write_text(json.dumps(content))
    (tmp_path / "other.index.json").write_text(json.dumps({"weight_map": {"first.weight": "w.safetensors.index.json"}}))
    assert message in refused(net(0), tmp_path / "w.safetensors.index.json")


@pytest.mark.parametrize("opcode", [b"\x8d", b"\x8e", b"\x96"])  # text, bytes and a buffer of a length in 64 bits
def test_a_length_beyond_all_memory_is_one_sentence(opcode: bytes, tmp_path: Path) -> None:
    endless = b"\x80\x04" + opcode + (2**63 - 1).to_bytes(8, "little") + b"x."
    torch.save({}, tmp_path / "whole.pt", _use_new_zipfile_serialization=False)
    magic, _, _ = (tmp_path / "whole.pt").read_bytes().partition(b".")
    (tmp_path / "legacy.pt").write_bytes(magic + b"." + endless)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("x/data.pkl", endless)
    for name in ("legacy.pt", "zip.pt"):
        assert "are damaged or cut off" in refused(net(0), tmp_path / name)


def test_a_name_with_a_null_character_is_one_sentence(tmp_path: Path) -> None:
    assert "cannot read the weights " in refused(net(0), tmp_path / "a\0b")


@pytest.mark.parametrize("new", [True, False])
def test_a_pickled_module_is_refused_with_the_lines_that_convert_it(new: bool, tmp_path: Path) -> None:
    for module in (net(0), nn.Sequential(nn.Linear(2, 2))):
        torch.save(module, tmp_path / "net.pt", _use_new_zipfile_serialization=new)
        said = refused(net(0), tmp_path / "net.pt")
        assert "convert it once: model = torch.load('net.pt', weights_only=False); torch.save(model" in said
        assert said.endswith("torch.save(model.state_dict(), 'weights.pt').")
        if new:
            assert f"got a pickled object of the class '{type(module).__module__}.{type(module).__name__}'" in said


class _Bomb:
    """What whoever unpickles it runs."""

    def __init__(self, place: Path, call: Callable[..., object]) -> None:
        self.place = place
        self.call = call

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return self.call, (str(self.place),)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("call", [os.mkdir, exec])
@pytest.mark.parametrize("inside", [True, False])
def test_a_file_with_code_is_refused_and_the_code_not_run(
    new: bool, call: Callable[..., object], inside: bool, tmp_path: Path
) -> None:
    bomb = _Bomb(tmp_path / "run", call)
    held = net(0).state_dict() | {"extra": bomb} if inside else bomb
    torch.save(held, tmp_path / "net.pt", _use_new_zipfile_serialization=new)
    said = refused(net(0), tmp_path / "net.pt")
    assert "ask for a function to be called, which was not done: got '" in said
    assert "torch.load" not in said
    assert not (tmp_path / "run").exists()


def test_a_function_of_any_other_name_is_not_called_either(tmp_path: Path) -> None:
    torch.save(net(0).state_dict() | {"extra": _Bomb(tmp_path / "run", _make)}, tmp_path / "net.pt")
    said = refused(net(0), tmp_path / "net.pt")
    assert "unexpected: extra" in said
    assert not (tmp_path / "run").exists()


def _make(place: str) -> None:
    Path(place).mkdir()


@pytest.mark.parametrize("write", [safe, plain, old_format, shards])
def test_a_file_that_was_cut_off_is_one_sentence(write: Writer, tmp_path: Path) -> None:
    path = tmp_path / write(net(0).state_dict(), tmp_path)
    whole = path.read_bytes()
    for size in range(0, len(whole), max(len(whole) // 40, 1)):
        path.write_bytes(whole[:size])
        assert "the weights " in refused(net(1), path)


@pytest.mark.parametrize("write", [safe, plain, old_format])
def test_a_file_with_changed_bytes_is_loaded_or_one_sentence(write: Writer, tmp_path: Path) -> None:
    path = tmp_path / write(net(0).state_dict(), tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        try:
            load_weights(net(1), path)
        except RecipeError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most changes hit a value, and are loaded


def test_a_file_that_grows_when_it_is_read_is_refused(tmp_path: Path) -> None:
    plain({"first.weight": torch.zeros(1 << 20)}, tmp_path)
    with zipfile.ZipFile(tmp_path / "w.pth") as stored, zipfile.ZipFile(tmp_path / "w.pt", "w", 8) as deflated:
        for name in stored.namelist():
            deflated.writestr(name, stored.read(name))
    assert "grow when they are read: got 41" in refused(net(0), tmp_path / "w.pt")


def test_what_is_no_file_of_weights_says_so(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    for content, message in (
        (b"", "are of no kind that can be read: got an empty file, expected safetensors, "),
        (b"\x89HDF\r\n\x1a\n", "got a file that begins with b'\\x89HDF"),
        (b"version https://git-lfs.github.com/spec/v1", "got a file that begins with b'version '"),
        (pickle.dumps({"a": 1}), "got a plain pickle, or one that was cut off, expected a state dict"),
        ((1 << 62).to_bytes(8, "little") + b"{", "are damaged or cut off"),
    ):
        path.write_bytes(content)
        assert message in refused(net(0), path)
    torch.save(net(0).state_dict(), path, pickle_protocol=4)
    assert "cannot be read without running what they hold: got a pickle of another protocol" in refused(net(0), path)
    torch.save({"epoch": 3, "ema": {"first.weight": torch.zeros(1)}}, path)
    assert "hold no tensors by name: got only epoch, ema, expected a state dict" in refused(net(0), path)
    torch.save(torch.zeros(3), path)
    assert "hold no tensors by name: got one Tensor." in refused(net(0), path)
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    assert "are an archive that torch.save did not write: got a zip with a.npy" in refused(net(0), tmp_path / "w.npz")
