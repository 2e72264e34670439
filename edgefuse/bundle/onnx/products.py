"""What operators of an ONNX graph make of shapes: products, convolutions, pools, recurrences and transforms.

Rules return the sizes of the outputs, as in `shapes.py`; `multiplications` says how much work is behind one number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from edgefuse.bundle.onnx.call import Call, Shape, broadcast
from edgefuse.bundle.onnx.shapes import Shapes

_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "QLinearConv", "FusedConv", "ConvTranspose", "DeformConv"})
_PRODUCTS = frozenset(
    {
        *("MatMul", "MatMulInteger", "QLinearMatMul", "FusedMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
        *("MatMulNBits", "Gemm", "QGemm"),
    }
)
_ATTENTIONS = frozenset({"Attention", "QAttention", "MultiHeadAttention", "GroupQueryAttention"})


def matrices(call: Call) -> Shapes:
    """Multiply matrices, of which there may be many; a vector is a row on the left, a column on the right."""
    second = _weights(call)
    left, right = call.shape(0, 1), call.shape(second, 1)
    rows, columns = (1, *left) if len(left) == 1 else left, (*right, 1) if len(right) == 1 else right
    rows = _turned(rows, call.integer("transA", 0))
    columns = _turned(columns, call.integer("transB", 0))
    ends = (*rows[-2:-1][: len(left) - 1], *columns[-1:][: len(right) - 1])
    return [(*broadcast(rows[:-2], columns[:-2]), *ends)]


def scaled_matrices(call: Call) -> Shapes:
    """Multiply matrices of integers and scale the product, by one number or one for each column."""
    call.shape(0, 2)
    columns = call.shape(1, 2)[-1]
    places = (2,) if call.kind == "DynamicQuantizeMatMul" else (2, 3)
    for place in places:
        scales = call.input(place).elements
        if scales != 1 and (place != places[-1] or scales % columns):
            raise call.refuse(f"has {scales} scales in its input {place}")
    return matrices(call)


def _turned(shape: Shape, turned: int) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2]) if turned else shape


def _weights(call: Call) -> int:
    """Return the position of the weights: behind scale and zero point where these stand between."""
    return 3 if call.kind in ("QLinearMatMul", "QLinearConv", "QGemm") else 1


def packed_product(call: Call) -> Shapes:
    """Multiply by weights of few bits, whose number of columns is an attribute."""
    return [(*call.shape(0, 1)[:-1], max(0, call.integer("N", 0)))]


def packed_lookup(call: Call) -> Shapes:
    """Take rows of few bits out."""
    shape = call.shape(0, 1)
    axis = call.axis(call.integer("gather_axis", 0), len(shape))
    bits = max(1, call.integer("bits", 4))
    made = (*shape[:axis], *call.shape(1), *shape[axis + 1 :])
    return [(*made[:-1], made[-1] * max(1, 8 // bits))] if made else [made]


def _spatial(call: Call, shape: Shape, windows: Shape) -> Shape:
    """Return how many places a window takes along each axis."""
    rank = len(shape)
    strides, dilations, paddings = (call.integers(name) for name in ("strides", "dilations", "pads"))
    padding, found = call.text("auto_pad"), []
    for axis, (size, window) in enumerate(zip(shape, windows, strict=False)):
        stride = max(1, strides[axis]) if axis < len(strides) else 1
        reach = (window - 1) * (dilations[axis] if axis < len(dilations) else 1) + 1
        around = paddings[axis] + paddings[axis + rank] if len(paddings) == 2 * rank else 0
        if padding.startswith("SAME"):
            found.append(-(-size // stride))
            continue
        before, around = (0, 0) if padding == "VALID" else (paddings[axis] if around else 0, around)
        places = (size - reach + around) // stride + 1
        if call.integer("ceil_mode", 0) and (size - reach + around) % stride and places * stride < size + before:
            places += 1
        found.append(max(0, places))
    return tuple(found)


def convolution(call: Call) -> Shapes:
    """Convolve; weights are [out, in, *window]."""
    batch, _, *sizes = call.shape(0, 2)
    outputs, _, *windows = call.shape(_weights(call), 2)
    return [(batch, outputs, *_spatial(call, tuple(sizes), tuple(windows)))]


def deformed(call: Call) -> Shapes:
    """Convolve where offsets point; these are as many as there are places."""
    return [(*call.shape(0, 2)[:1], call.shape(1, 2)[0], *call.shape(2, 2)[2:])]


def transposed(call: Call) -> Shapes:
    """Undo the places of a convolution; weights are [in, out, *window]."""
    batch, _, *sizes = call.shape(0, 2)
    _, outputs, *windows = call.shape(1, 2)
    channels = outputs * max(1, call.integer("group", 1))
    wanted = call.integers("output_shape")
    if wanted:
        return [(batch, channels, *(max(0, size) for size in wanted[-len(sizes) :]))]
    strides, dilations, paddings, more = (
        call.integers(name) for name in ("strides", "dilations", "pads", "output_padding")
    )
    found = []
    for axis, (size, window) in enumerate(zip(sizes, windows, strict=False)):
        stride = strides[axis] if axis < len(strides) else 1
        reach = (window - 1) * (dilations[axis] if axis < len(dilations) else 1) + 1
        around = paddings[axis] + paddings[axis + len(sizes)] if len(paddings) == 2 * len(sizes) else 0
        behind = more[axis] if axis < len(more) else 0
        same = call.text("auto_pad").startswith("SAME")
        found.append(stride * size if same else max(0, stride * (size - 1) + behind + reach - around))
    return [(batch, channels, *found)]


def pool(call: Call) -> Shapes:
    """Take the largest or the mean of each window; where the largest stood may be asked for, too."""
    batch, channels, *sizes = call.shape(0, 2)
    if call.integer("channels_last", 0):
        raise call.refuse("has its channels last")
    found = _spatial(call, tuple(sizes), call.integers("kernel_shape"))
    if call.kind == "QLinearAveragePool" and 0 in found:
        raise call.refuse("finds no place for its window")
    return [(batch, channels, *found)] * call.outputs


def global_pool(call: Call) -> Shapes:
    """Take the largest or the mean of all places."""
    shape = call.shape(0, 2)
    return [(*shape[:2], *(1 for _ in shape[2:]))]


def unpool(call: Call) -> Shapes:
    """Put values back where the largest of a window stood."""
    if call.optional(2):
        return [tuple(max(0, size) for size in call.sizes(2))]
    batch, channels, *sizes = call.shape(0, 2)
    strides, windows = call.integers("strides"), call.integers("kernel_shape")
    strides = strides if len(strides) == len(sizes) else (1,) * len(sizes)
    windows = windows if len(windows) == len(sizes) else (1,) * len(sizes)
    return [(batch, channels, *((size - 1) * s + w for size, s, w in zip(sizes, strides, windows, strict=True)))]


def recurrence(call: Call) -> Shapes:
    """Go through steps, in one direction or both."""
    hidden = max(0, call.integer("hidden_size", 1))
    first, second, *_ = call.shape(0, 3)
    directions = 2 if call.text("direction") == "bidirectional" else 1
    if call.integer("layout", 0):
        last = (first, directions, hidden)
        return [(first, second, directions, hidden), *[last] * (call.outputs - 1)]
    return [(first, directions, second, hidden), *[(directions, second, hidden)] * (call.outputs - 1)]


def attention(call: Call) -> Shapes:
    """Mix values by how queries fit keys, with those of earlier steps; each has heads as an axis or side by side."""
    query, key, value = (_with_heads(call, place) for place in range(3))
    past = call.shape(4, 4)[2] if call.optional(4) else 0
    batch, heads, steps, _ = query
    width, seen = value[3], past + key[2]
    first = (batch, heads, steps, width) if len(call.shape()) == 4 else (batch, steps, heads * width)
    return [first, (*key[:2], seen, key[3]), (*value[:2], seen, width), (batch, heads, steps, seen)]


def _with_heads(call: Call, place: int) -> Shape:
    shape = call.shape(place, 3)
    if len(shape) > 3:
        return shape[:4]
    heads = max(1, call.integer("kv_num_heads" if place else "q_num_heads", 1))
    return (shape[0], heads, shape[1], shape[2] // heads)


def joined_attention(call: Call) -> Shapes:
    """Mix values as ONNX Runtime's own operators do: queries, keys and values may lie side by side."""
    query = call.shape(0, 3)
    joined = len(query) == 5
    weights = call.optional(1)
    widths = [each.shape[-1] for each in call.inputs[:3] if each and each.shape]
    if call.kind in ("Attention", "QAttention"):
        width = -(-weights.shape[-1] // 3) if weights and weights.shape else query[-1]
    else:
        width = query[2] * query[4] if joined else max(widths)
    steps = max(sum(each.shape[-2] for each in call.inputs if each and len(each.shape) > 2), query[1])
    heads = max(1, call.integer("num_heads", 1))
    most = (query[0], heads, query[1], steps)
    return [(*query[:2], width), *[most] * (call.outputs - 1)]


def einsum(call: Call) -> Shapes:
    """Multiply and sum up along axes that are named by letters."""
    _, sizes, output = _named(call)
    return [tuple(sizes.get(letter, 1) for letter in output)]


def _named(call: Call) -> tuple[list[str], dict[str, int], str]:
    """Return the letters of each input, the size of each letter, and the letters of the output."""
    before, arrow, behind = call.text("equation").replace(" ", "").partition("->")
    terms, sizes, longest = before.split(","), dict[str, int](), ""
    if len(terms) != len(call.inputs):
        raise call.refuse(f"has {len(terms)} terms")
    for place, term in enumerate(terms):
        shape = call.shape(place)
        open_ = len(shape) - len(term.replace("...", ""))
        letters = "".join(map(chr, range(0x100, 0x100 + max(0, open_))))[::-1]
        longest = max(longest, letters, key=len)
        terms[place] = term.replace("...", letters)
        for letter, size in zip(terms[place], shape, strict=False):
            sizes[letter] = max(sizes.get(letter, 1), size)
    joined = "".join(terms)
    found = behind.replace("...", longest) if arrow else "".join(c for c in sorted(sizes) if joined.count(c) == 1)
    return terms, sizes, found


def spectrum(call: Call) -> Shapes:
    """Take the Fourier transform along an axis, in pairs of numbers."""
    shape = list(call.shape(0, 2))
    given = call.sizes(2) if call.optional(2) else ()
    axis = call.axis(given[0] if given else call.integer("axis", 1) % len(shape), len(shape))
    length = _positive(call, 1)[0] if call.optional(1) else 0
    if not call.integer("onesided", 0):
        shape[axis] = length or shape[axis]
        return [(*shape[:-1], 2)]
    if call.integer("inverse", 0):
        shape[axis] = length or 2 * (shape[axis] - 1)
        return [(*shape[:-1], 1)]
    shape[axis] = (length or shape[axis]) // 2 + 1
    return [(*shape[:-1], 2)]


def short_spectrum(call: Call) -> Shapes:
    """Take the Fourier transform of one part after the other."""
    batch, samples, *_ = call.shape(0, 2)
    step, *lengths = _positive(call, *((1, 3) if call.optional(3) else (1,)))
    if not lengths and not call.optional(2):
        raise call.refuse("has frames of no length")
    window = call.shape(2, 1)[0] if call.optional(2) else lengths[0]
    lines = window // 2 + 1 if call.integer("onesided", 1) else window
    return [(batch, max(0, samples - window) // step + 1, lines, 2)]


def _positive(call: Call, *places: int) -> list[int]:
    """Return inputs that each are one size, of 1 at the least."""
    sizes = [size for place in places for size in call.sizes(place)]
    if len(sizes) != len(places) or min(sizes) < 1:
        raise call.refuse(f"has the sizes {sizes}")
    return sizes


def multiplications(call: Call) -> int:
    """Return how many multiplications (or comparisons) are behind one number of the first output."""
    kind = call.kind
    if kind in _CONVOLUTIONS:
        shape = call.shape(_weights(call), 2)
        return math.prod(shape) // max(1, shape[1 if kind == "ConvTranspose" else 0])
    if kind in _PRODUCTS:
        shape = call.shape(0, 1)
        return shape[-2 if call.integer("transA", 0) and len(shape) > 1 else -1]
    if kind in ("MaxPool", "AveragePool", "LpPool"):
        return math.prod(map(abs, call.integers("kernel_shape")))
    if kind in ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"):
        gates = {"RNN": 1, "GRU": 3}.get(kind, 4)
        return gates * (call.shape(0, 3)[-1] + max(0, call.integer("hidden_size", 1)))
    if kind in _ATTENTIONS:
        return 3 * sum(each.shape[-1] + each.shape[-2] for each in call.inputs if each and len(each.shape) > 1)
    if kind == "Einsum":
        _, sizes, output = _named(call)
        return math.prod(sizes.values()) // max(1, math.prod(sizes.get(letter, 1) for letter in output))
    return _OTHERS[kind](call) if kind in _OTHERS else 1


_OTHERS: Mapping[str, Callable[[Call], int]] = MappingProxyType(
    {
        **dict.fromkeys(("DFT", "STFT"), lambda _: 2**12),  # of lengths that are no power of two; measured
        "Det": lambda call: call.shape(0, 2)[-1] ** 3,
        "NonMaxSuppression": lambda call: call.shape(0, 2)[1],
        "RoiAlign": lambda call: 16 * max(8, call.integer("sampling_ratio", 0)) ** 2,  # four places for each
    }
)
