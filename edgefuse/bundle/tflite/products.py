"""The output shapes of operators of a TFLite graph: convolutions, matrix products, pools and windows.

Rules return the shapes of the outputs, as in `shapes.py`; `multiplications` says how much work is behind one number.
"""

from __future__ import annotations

from edgefuse.bundle.tflite.call import MAX_STEP, Call, broadcast, product
from edgefuse.bundle.tflite.shapes import Shapes

_SAME, _VALID = 0, 1


def _places(call: Call, size: int, window: int, axis: str, *, dilated: bool = True) -> int:
    """Return how many places a window takes along an axis."""
    stride = call.integer(f"stride_{axis}", 1)
    dilation = call.integer(f"dilation_{axis}_factor", 1) if dilated else 1
    reach = (window - 1) * dilation + 1
    call.need(reach <= MAX_STEP, f"window reaches over {reach}")
    padded = call.integer("padding", _SAME, _VALID) == _SAME
    places = -(-size // stride) if padded else -(-(size - reach + 1) // stride)
    call.need(places >= 1, f"window of {reach} does not fit")
    return places


def _check_bias(call: Call, position: int, channels: int) -> None:
    bias = call.optional(position)
    call.need(bias is None or bias.shape == (channels,), f"bias is not {channels} numbers")


def _check_weights(call: Call, axis: int, channels: int) -> None:
    """Check that weights are quantized as a whole or for each output channel, and data as a whole."""
    weights = call.input(1).quantization
    held = len(weights.scales) in (0, 1) or (weights.axis == axis and len(weights.scales) == channels)
    call.need(held and weights.blocks is None, "weights have scales along another axis than their outputs")


def convolution(call: Call) -> Shapes:
    """Convolve pictures, perhaps in groups of channels; weights are [out, height, width, in]."""
    batch, height, width, channels = call.shape(0, 4)
    outputs, rows, columns, inner = call.shape(1, 4)
    groups = channels // inner
    call.need(channels % inner == 0 and outputs % groups == 0, "channels do not fit")
    _check_bias(call, 2, outputs)
    _check_weights(call, 0, outputs)
    return [(batch, _places(call, height, rows, "h"), _places(call, width, columns, "w"), outputs)]


def depthwise(call: Call) -> Shapes:
    """Convolve each channel of pictures by itself; weights are [1, height, width, channels × multiplier]."""
    batch, height, width, channels = call.shape(0, 4)
    one, rows, columns, outputs = call.shape(1, 4)
    call.need(one == 1 and outputs == channels * call.integer("depth_multiplier", 1), "channels do not fit")
    _check_bias(call, 2, outputs)
    _check_weights(call, 3, outputs)
    return [(batch, _places(call, height, rows, "h"), _places(call, width, columns, "w"), outputs)]


def convolution_3d(call: Call) -> Shapes:
    """Convolve volumes; weights are [depth, height, width, in, out]."""
    batch, *sizes, channels = call.shape(0, 5)
    *windows, inner, outputs = call.shape(1, 5)
    call.need(inner == channels, "channels do not fit")
    _check_bias(call, 2, outputs)
    places = [_places(call, *each) for each in zip(sizes, windows, "dhw", strict=True)]
    return [(batch, *places, outputs)]


def transposed(call: Call) -> Shapes:
    """Undo the places of a convolution; the output's shape is a constant, weights are [out, height, width, in]."""
    wanted = call.constant(0, 1)
    outputs, rows, columns, inner = call.shape(1, 4)
    batch, height, width, channels = call.shape(2, 4)
    call.need(len(wanted) == 4 and inner == channels and wanted[::3] == (batch, outputs), "channels do not fit")
    found = (
        _places(call, wanted[1], rows, "h", dilated=False),
        _places(call, wanted[2], columns, "w", dilated=False),
    )
    call.need(found == (height, width), f"output would be {list(wanted)}")
    _check_bias(call, 3, outputs)
    _check_weights(call, 0, outputs)
    return [wanted]


def pool(call: Call) -> Shapes:
    """Take the largest or the mean of each window."""
    batch, height, width, channels = call.shape(0, 4)
    rows, columns = call.integer("filter_height", 1), call.integer("filter_width", 1)
    places = (
        _places(call, height, rows, "h", dilated=False),
        _places(call, width, columns, "w", dilated=False),
    )
    return [(batch, *places, channels)]


def dense(call: Call) -> Shapes:
    """Multiply vectors by weights [units, length]."""
    shape = call.shape(0)
    units, length = call.shape(1, 2)
    call.need(call.integer("weights_format") == 0, "weights are shuffled")
    call.need(shape and product(shape) % length == 0, "vectors do not fit the weights")
    _check_bias(call, 2, units)
    _check_weights(call, 0, units)
    if not call.options["keep_num_dims"]:
        return [(product(shape) // length, units)]
    call.need(shape[-1] == length, "vectors do not fit the weights")
    return [(*shape[:-1], units)]


def matrices(call: Call) -> Shapes:
    """Multiply matrices, of which there may be many."""
    first, second = call.shape(0, 2, 3, 4, 5), call.shape(1, 2, 3, 4, 5)
    rows, inner = first[-2:][::-1] if call.options["adj_x"] else first[-2:]
    other, columns = second[-2:][::-1] if call.options["adj_y"] else second[-2:]
    call.need(inner == other, "matrices do not fit each other")
    many = broadcast(call, first[:-2], second[:-2]) if len(first) + len(second) > 4 else ()
    return [(*many, rows, columns)]


def windows(call: Call) -> Shapes:
    """Reduce each window of a padded tensor by the operator of a graph."""
    shape = call.shape(0, 1, 2, 3, 4, 5, 6)
    rank = len(shape)
    call.need(call.input(1).elements == 1, "first value is not one")
    sizes = call.integers("window_dimensions", rank, 1)
    strides = call.integers("window_strides", rank, 1)
    spread = call.integers("base_dilations", rank, 1)
    dilations = call.integers("window_dilations", rank, 1)
    padding = call.integers("padding", 2 * rank, -MAX_STEP)
    found = []
    for axis, size in enumerate(shape):
        before, behind = padding[2 * axis : 2 * axis + 2]
        spread_size = (size - 1) * spread[axis] + 1
        room = spread_size + before + behind - (sizes[axis] - 1) * dilations[axis] - 1
        call.need(room >= 0 and -min(before, behind, 0) < spread_size, f"window does not fit axis {axis}")
        found.append(room // strides[axis] + 1)
    return [tuple(found)]


def scatter(call: Call) -> Shapes:
    """Write windows of updates to the places that index vectors name; what falls outside is left out."""
    shape, indices, updates = call.shape(0), call.shape(1), call.shape(2)
    axes, rank = len(indices) - 1, len(shape)
    windows, inserted, places = (
        _ascending(call, option, most)
        for option, most in (
            ("update_window_dims", len(updates)),
            ("inserted_window_dims", rank),
            ("scatter_dims_to_operand_dims", rank),
        )
    )
    vector = call.integer("index_vector_dim", 0, axes)
    batch = tuple(size for axis, size in enumerate(updates) if axis not in windows)
    fits = (
        len(windows) + len(inserted) == rank
        and indices[vector] == len(places)
        and batch == (*indices[:vector], *indices[vector + 1 :])
    )
    call.need(fits, f"updates of the shape {list(updates)} do not fit")
    return [shape]


def _ascending(call: Call, option: str, most: int) -> tuple[int, ...]:
    """Return an option that lists different axes."""
    value = call.options[option]
    axes = value if isinstance(value, tuple) else ()
    call.need(len(set(axes)) == len(axes) and all(0 <= axis < most for axis in axes), f"{option} is {list(axes)}")
    return axes


def multiplications(call: Call) -> int:
    """Return how many multiplications (or comparisons) are behind one number of the output."""
    if call.kind in ("CONV_2D", "CONV_3D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D"):
        weights = call.shape(1)
        outputs = {"CONV_3D": 4, "DEPTHWISE_CONV_2D": 3}.get(call.kind, 0)
        return product(weights) // weights[outputs]
    if call.kind == "BATCH_MATMUL":
        return call.shape(0)[-2 if call.options["adj_x"] else -1]
    if call.kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        return call.integer("filter_height") * call.integer("filter_width")
    if call.kind == "STABLEHLO_REDUCE_WINDOW":
        return product(call.integers("window_dimensions", len(call.shape(0)), 1))
    return 1


def scratch_elements(call: Call) -> int:
    """Return how many numbers an operator sets down for itself, at the most: windows laid out as a matrix, padding."""
    if call.kind in ("CONV_2D", "CONV_3D"):
        output = call.outputs[0]
        return output.elements // output.shape[-1] * multiplications(call)
    if call.kind == "TRANSPOSE_CONV":
        return product(call.shape(2)[:3]) * product(call.shape(1)[:3])
    if call.kind == "STABLEHLO_REDUCE_WINDOW":
        padding, spread = call.integers("padding", 2 * len(call.shape(0)), -MAX_STEP), call.options["base_dilations"]
        sizes = zip(call.shape(0), spread, padding[::2], padding[1::2], strict=True)  # type: ignore[arg-type]
        return 2 * product([size * each + max(before, 0) + max(behind, 0) for size, each, before, behind in sizes])
    return 0
