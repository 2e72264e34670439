"""ONNX files that loop without a bound, or ask for endless memory or time, are refused; others pass."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgefuse.bundle.onnx import refuse_unsafe_onnx
from edgefuse.errors import BundleError
from tests.attack.stage_bombs import ONNX_BOMBS as BOMBS
from tests.attack.stage_bombs import ONNX_LARGE
from tests.bundle.onnx_models import with_nodes


def _body(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    step = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    going = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    return helper.make_graph([helper.make_node("Identity", ["go"], ["on"]), *nodes], "body", [step, going], [going])


def _loop(steps: str, *nodes: onnx.NodeProto, name: str = "z") -> onnx.NodeProto:
    return helper.make_node("Loop", [steps, ""], [name], body=_body(*nodes))


def _scan(*nodes: onnx.NodeProto) -> onnx.NodeProto:
    return helper.make_node("Scan", ["x"], ["z"], num_scan_inputs=1, body=_body(*nodes))


REFUSED = {
    "engine": (helper.make_node("EPContext", ["x"], ["z"]), "loads a compiled engine"),
    "another domain": (helper.make_node("Scaler", ["x"], ["z"], domain="ai.onnx.ml"), "'Scaler' of the unknown domain"),
    "loop without a count": (_loop(""), "a Loop whose number of steps does not stand in the file"),
    "loop of a computed count": (_loop("y"), "a Loop whose number of steps does not stand in the file"),
    "endless loop": (_loop("many"), "a Loop of 1000000000000 steps"),
    "loop of no integer": (_loop("scales"), "a Loop whose number of steps does not stand in the file"),
    "more than a float holds": (helper.make_node("Expand", ["x", "sizes"], ["z"]), "writes 4.61169e\\+18 numbers"),
    "loop in a loop": (_loop("some", _loop("some", name="v")), "a Loop of 1000000 steps"),
    "scan in a loop": (_loop("some", _scan()), "a Scan within a loop"),
    "loop in a scan": (_scan(_loop("some")), "a Loop of 1000 steps, or within a Scan"),
    "graph elsewhere": (helper.make_node("BeamSearch", ["x"], ["z"], decoder=_body()), "'BeamSearch' that runs graphs"),
    "expand": (
        helper.make_node("Expand", ["x", "huge"], ["z"]),
        "'Expand' that writes 1e\\+12 numbers",
    ),
    "constant of shape": (helper.make_node("ConstantOfShape", ["huge"], ["z"]), "writes 1e\\+12 numbers"),
    "tile": (helper.make_node("Tile", ["x", "huge"], ["z"]), "writes 4e\\+12 numbers"),
    "range": (helper.make_node("Range", ["some", "many", "some"], ["z"]), "writes 1e\\+09 numbers"),
    "endless range": (
        helper.make_node("Range", ["some", "many", "none"], ["z"]),
        "'Range' which counts without an end",
    ),
    "resize": (helper.make_node("Resize", ["x", "", "scales"], ["z"]), "'Resize' that writes 4e\\+12 numbers"),
    "sizes": (helper.make_node("Resize", ["x", "", "", "far"], ["z"]), "writes 1e\\+12 numbers"),
    "pad": (helper.make_node("Pad", ["x", "far"], ["z"]), "'Pad' that writes 2e\\+12 numbers"),
    "stride": (helper.make_node("Conv", ["x", "w"], ["z"], strides=[10**9, 1]), "'Conv' whose strides is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_bound_is_refused(case: str) -> None:
    node, reason = REFUSED[case]
    huge = np.array([10**6, 10**6])
    scales = np.array([1e12], np.float32)
    sizes = np.full(16, 2**62)
    single = {"many": 10**12, "some": 1000, "none": 0}
    lists = {"huge": huge, "scales": scales, "sizes": sizes, "far": np.array([10**12, 10**12])}
    data = with_nodes(node, **lists, **{k: np.array(v) for k, v in single.items()})
    with pytest.raises(BundleError, match=reason):
        refuse_unsafe_onnx("a.onnx", data)


@pytest.mark.parametrize("case", BOMBS)
def test_a_file_that_would_take_all_time_or_memory_is_refused_at_once(case: str) -> None:
    make, reason = BOMBS[case]
    data = make()
    begin = time.process_time()
    with pytest.raises(BundleError, match=reason):
        refuse_unsafe_onnx("a.onnx", data)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("case", ONNX_LARGE)
def test_a_large_file_costs_what_its_bytes_cost(case: str) -> None:
    data = ONNX_LARGE[case]()
    begin = time.process_time()
    refuse_unsafe_onnx("a.onnx", data)
    assert time.process_time() - begin < 1


def test_a_clip_may_be_padded_far() -> None:
    pads = np.array([0, 480_000])
    refuse_unsafe_onnx("a.onnx", with_nodes(helper.make_node("Pad", ["x", "pads"], ["z"]), pads=pads))


@pytest.mark.parametrize("kind", ["initializer", "node"])
def test_what_has_no_name_is_no_count(kind: str) -> None:
    """An input that is left out is written as an empty name."""
    made = helper.make_node("Constant", [], [""], value_int=3)
    data = with_nodes(made, _loop("")) if kind == "node" else with_nodes(_loop(""), **{"": np.array(3)})
    with pytest.raises(BundleError, match="number of steps does not stand in the file"):
        refuse_unsafe_onnx("a.onnx", data)


def test_a_count_that_may_be_fed_does_not_stand_in_the_file() -> None:
    model = onnx.load_model_from_string(with_nodes(_loop("some"), some=np.array(3)))
    model.graph.input.append(helper.make_tensor_value_info("some", TensorProto.INT64, []))
    with pytest.raises(BundleError, match="number of steps does not stand in the file"):
        refuse_unsafe_onnx("a.onnx", model.SerializeToString())


def test_an_output_that_an_operator_does_not_make_is_no_constant_of_its_name() -> None:
    body = _body(helper.make_node("Add", ["x", "x"], ["n", "some"]), _loop("some", name="v"))
    loop = helper.make_node("Loop", ["few", ""], [], body=body)
    with pytest.raises(BundleError, match="reads 'some' before it is made"):
        refuse_unsafe_onnx("a.onnx", with_nodes(loop, few=np.array(2), some=np.array(3)))


def test_what_is_read_before_it_is_made_is_refused() -> None:
    """A runtime sorts operators; a constant outside of that name must not stand in for what is made later."""
    late = [helper.make_node("ConstantOfShape", ["k"], ["z"]), helper.make_node("Shape", ["x"], ["k"])]
    branch = helper.make_graph(late, "g", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [None])])
    choice = helper.make_node("If", ["go"], ["y2"], then_branch=branch, else_branch=branch)
    with pytest.raises(BundleError, match="reads 'k' before it is made"):
        refuse_unsafe_onnx("a.onnx", with_nodes(choice, go=np.array(True), k=np.array([1])))


def test_a_constant_node_says_as_much_as_an_initializer() -> None:
    made = helper.make_node("Constant", [], ["huge"], value_ints=[10**6, 10**6])
    with pytest.raises(BundleError, match="that writes"):
        refuse_unsafe_onnx("a.onnx", with_nodes(made, helper.make_node("Expand", ["x", "huge"], ["z"])))


def test_what_hides_a_constant_is_not_it() -> None:
    """The steps of the inner loop are what the outer one hands it, not the constant outside of that name."""
    inner = _body(_loop("some", name="v"))
    inner.input.append(helper.make_tensor_value_info("some", TensorProto.INT64, []))
    loop = helper.make_node("Loop", ["few", "", "y"], ["z"], body=inner)
    with pytest.raises(BundleError, match="number of steps does not stand in the file"):
        refuse_unsafe_onnx("a.onnx", with_nodes(loop, few=np.array(2), some=np.array(3)))


def test_counted_loops_pass() -> None:
    node = _loop("some", _loop("few", name="v"))
    refuse_unsafe_onnx("a.onnx", with_nodes(node, some=np.array(1000), few=np.array(3)))
