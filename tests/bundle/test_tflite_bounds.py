"""What a TFLite file costs to check, to unpack and to run has bounds."""

from __future__ import annotations

import time

import numpy as np
import pytest

from edgefuse.bundle.tflite import refuse_unsafe_tflite
from edgefuse.errors import BundleError
from tests.attack.stage_bombs import TFLITE_BOMBS as BOMBS
from tests.attack.tflite_builder import FileBuilder


def test_what_lives_at_once_has_a_bound() -> None:
    file = FileBuilder()
    x = file.input([1])
    wide = [file.add("BROADCAST_TO", [x, file.ints(2**26)], [2**26]) for _ in range(5)]
    data = file.finish(file.add("CONCATENATION", wide, [5 * 2**26], "ConcatenationOptions"))
    with pytest.raises(BundleError, match="impossible shape"):
        refuse_unsafe_tflite("a.tflite", data)
    total = wide[0]
    for other in wide[1:]:
        total = file.add("ADD", [total, other], [2**26], "AddOptions")
    del file.graph.operators[5], file.graph.tensors[11]
    for each in file.graph.operators[5:]:
        each.inputs, each.outputs = (np.where(part > 11, part - 1, part) for part in (each.inputs, each.outputs))
    with pytest.raises(BundleError, match="needs 1610612736 bytes at once, where 1073741824 are the most"):
        refuse_unsafe_tflite("a.tflite", file.finish(total - 1))


def test_what_one_run_computes_has_a_bound() -> None:
    file = FileBuilder()
    x = file.input([1, 1])
    for _ in range(3):
        a = file.add("BROADCAST_TO", [x, file.ints(2**13, 2**13)], [2**13, 2**13])
        b = file.add("BATCH_MATMUL", [a, a], [2**13, 2**13], "BatchMatMulOptions")
        x = file.add("SLICE", [b, file.ints(0, 0), file.ints(1, 1)], [1, 1])
    data = file.finish(x)
    with pytest.raises(BundleError, match=r"needs \d+ multiplications in one run, where 274877906944 are the most"):
        refuse_unsafe_tflite("a.tflite", data)


def test_constants_that_many_operators_unpack_have_a_bound() -> None:
    file = FileBuilder()
    x = file.input([1, 1024])
    weights = file.constant(np.zeros((1024, 1024), np.float32))
    for _ in range(100):
        x = file.add("FULLY_CONNECTED", [x, weights], [1, 1024], "FullyConnectedOptions")
    with pytest.raises(BundleError, match="has operators that unpack 419430"):
        refuse_unsafe_tflite("a.tflite", file.finish(x))


@pytest.mark.parametrize("case", BOMBS)
def test_a_file_costs_what_its_bytes_cost(case: str) -> None:
    make, said = BOMBS[case]
    data = make()
    begin = time.process_time()
    with pytest.raises(BundleError, match=said):
        refuse_unsafe_tflite("a.tflite", data)
    assert time.process_time() - begin < 1
