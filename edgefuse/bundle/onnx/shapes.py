"""What operators of an ONNX graph make of shapes: those that move, combine and reduce values.

Each rule returns the sizes of the outputs, or the most that they can be. Where inputs do not fit each other, a runtime
refuses the file by itself: rules then take what is larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgefuse.bundle.onnx.call import Call, Shape, broadcast

Shapes = Sequence[Shape]

_TEXT = 8  # the type of text in onnx.proto
_BEYOND = 2**62  # so many numbers that it does not matter how many


def same(call: Call) -> Shapes:
    """Values one by one: the shape stays."""
    return [call.shape()] * call.outputs


def along(call: Call) -> Shapes:
    """Values along an axis: the shape stays."""
    if "axis" in call.attributes:
        call.axis(call.integer("axis", 0), max(1, len(call.shape())))
    return same(call)


def cumulative(call: Call) -> Shapes:
    """Sum up, or multiply, from place to place along the axis that an input says."""
    axes = call.listed(1, "axis")
    if axes is None or len(axes) != 1:
        raise call.refuse("has an axis that only a run says")
    call.axis(axes[0], len(call.shape()))
    return same(call)


def cast(call: Call) -> Shapes:
    """Turn numbers into others, but not into text."""
    if call.integer("to", 0) == _TEXT:
        raise call.refuse("makes text")
    return [call.shape()]


def elementwise(call: Call) -> Shapes:
    """Tensors that are repeated to one shape."""
    return [broadcast(*(each.shape for each in call.inputs if each))]


def sloped(call: Call) -> Shapes:
    """Give what is below zero a slope, which is repeated to the shape of the values."""
    shape, slope = call.shape(), call.shape(1)
    fits = all(size in (1, wanted) for size, wanted in zip(slope[::-1], shape[::-1], strict=False))
    if len(slope) > len(shape) or not fits:
        raise call.refuse("has slopes that do not fit")
    return [shape]


def scalar(call: Call) -> Shapes:
    """One number, or one for each that is asked for."""
    return [()] * call.outputs


def shape_of(call: Call) -> Shapes:
    """The sizes of a tensor."""
    rank = len(call.shape())
    return [(len(range(rank)[call.integer("start", 0) : call.integer("end", rank)]),)]


def quantize(call: Call) -> Shapes:
    """Find a scale and quantize by it."""
    return [call.shape(), (), ()]


def reduce(call: Call) -> Shapes:
    """Take axes together."""
    shape = call.shape()
    listed = call.listed(1, "axes")
    keep = bool(call.integer("keepdims", 1))
    if listed is None:
        raise call.refuse("has axes that only a run says")
    if not listed and call.integer("noop_with_empty_axes", 0):
        return [shape]
    axes = {call.axis(axis, len(shape)) for axis in listed} or set(range(len(shape)))
    return [_without(shape, axes, keep=keep)]


def _without(shape: Shape, axes: set[int], *, keep: bool) -> Shape:
    return tuple(1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes)


def arg_reduce(call: Call) -> Shapes:
    """Find the largest or smallest along an axis."""
    shape = call.shape()
    axis = call.axis(call.integer("axis", 0), max(1, len(shape)))
    return [_without(shape, {axis}, keep=bool(call.integer("keepdims", 1)))]


def concat(call: Call) -> Shapes:
    """Put tensors one behind the other along an axis."""
    shapes = [each.shape for each in call.inputs if each]
    return [_joined(call, shapes, new=False)]


def _joined(call: Call, shapes: Sequence[Shape], *, new: bool) -> Shape:
    if not shapes:
        return ()
    common = broadcast(*shapes)
    if new:
        axis = call.axis(call.integer("axis", 0), len(common) + 1)
        return (*common[:axis], len(shapes), *common[axis:])
    axis = call.axis(call.integer("axis", 0), len(common))
    total = sum(shape[axis] if len(shape) == len(common) else common[axis] for shape in shapes)
    return (*common[:axis], total, *common[axis + 1 :])


def concat_sequence(call: Call) -> Shapes:
    """Put the tensors of a sequence one behind the other."""
    parts = call.input(0).parts or ()
    return [_joined(call, [part.shape for part in parts], new=bool(call.integer("new_axis", 0)))]


def split(call: Call) -> Shapes:
    """Take a tensor apart along an axis."""
    shape = call.shape(0, 1)
    axis = call.axis(call.integer("axis", 0), len(shape))
    if call.integer("num_outputs", call.outputs) != call.outputs:
        raise call.refuse(f"makes {call.integer('num_outputs', 0)} parts and names {call.outputs}")
    sizes = call.listed(1, "split")
    if sizes is None:
        return [shape] * call.outputs
    part = -(-shape[axis] // max(1, call.outputs))
    if len(sizes) != call.outputs:
        sizes = tuple(min(part, shape[axis] - part * place) for place in range(call.outputs))
    return [_with(shape, axis, max(0, min(size, shape[axis]))) for size in sizes]


def _with(shape: Shape, axis: int, *sizes: int) -> Shape:
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


def reshape(call: Call) -> Shapes:
    """Read the same values in another shape; one size may be -1, and 0 keeps one."""
    shape, wanted = call.shape(), call.sizes(1)
    elements, keeps = math.prod(shape), not call.integer("allowzero", 0)
    kept = [shape[place] if not size and keeps and place < len(shape) else size for place, size in enumerate(wanted)]
    known = math.prod(size for size in kept if size != -1)
    found = [-(-elements // known) if size == -1 and known > 0 else max(0, size) for size in kept]
    return [tuple(found)]


def flatten(call: Call) -> Shapes:
    """Read the same values as a matrix."""
    shape = call.shape()
    axis = call.integer("axis", 1)
    axis = len(shape) if axis == len(shape) else call.axis(axis, max(1, len(shape)))
    return [(math.prod(shape[:axis]), math.prod(shape[axis:]))]


def squeeze(call: Call) -> Shapes:
    """Leave axes of size 1 out."""
    shape, listed = call.shape(), call.listed(1, "axes")
    axes = {call.axis(axis, len(shape)) for axis in listed or ()}
    gone = axes or {axis for axis, size in enumerate(shape) if size == 1}
    return [tuple(size for axis, size in enumerate(shape) if axis not in gone)]


def unsqueeze(call: Call) -> Shapes:
    """Put axes of size 1 in."""
    shape, listed = call.shape(), call.listed(1, "axes")
    if listed is None:
        raise call.refuse("has axes that only a run says")
    rank = len(shape) + len(listed)
    axes, sizes = {call.axis(axis, rank) for axis in listed}, iter(shape)
    return [tuple(1 if axis in axes else next(sizes, 1) for axis in range(rank))]


def transpose(call: Call) -> Shapes:
    """Put axes into another order."""
    shape = call.shape()
    order = call.integers("perm") or tuple(range(len(shape)))[::-1]
    if sorted(order) != list(range(len(shape))):
        raise call.refuse(f"has the order {list(order)[:8]}")
    return [tuple(shape[axis] for axis in order)]


def expand(call: Call) -> Shapes:
    """Repeat to a shape."""
    return [broadcast(call.shape(), tuple(max(0, size) for size in call.sizes(1)))]


def filled(call: Call) -> Shapes:
    """Repeat a number to a shape."""
    return [tuple(max(0, size) for size in call.sizes(0))]


def tile(call: Call) -> Shapes:
    """Repeat along each axis."""
    shape, times = call.shape(), call.sizes(1)
    rank = max(len(shape), len(times))
    padded, many = (1,) * (rank - len(shape)) + shape, (*times, *(1,) * (rank - len(times)))
    return [tuple(size * max(0, each) for size, each in zip(padded, many, strict=True))]


def pad(call: Call) -> Shapes:
    """Put values around, or cut them off."""
    shape = call.shape()
    paddings = call.sizes(1) if call.optional(1) else call.integers("pads")
    axes = call.listed(3, "axes") or tuple(range(len(shape)))
    if len(paddings) != 2 * len(axes):
        raise call.refuse(f"has {len(paddings)} paddings")
    sizes = list(shape)
    for place, axis in enumerate(axes):
        sizes[call.axis(axis, len(shape))] += paddings[place] + paddings[place + len(axes)]
    return [tuple(max(0, size) for size in sizes)]


def center_crop_pad(call: Call) -> Shapes:
    """Cut off or pad to sizes."""
    shape, sizes = list(call.shape()), call.sizes(1)
    axes = call.integers("axes") or tuple(range(len(shape)))
    for axis, size in zip(axes, sizes, strict=False):
        shape[call.axis(axis, len(shape))] = max(0, size)
    return [tuple(shape)]


def range_(call: Call) -> Shapes:
    """Count from a number to another."""
    begin, end, step = (call.numbers(position) for position in range(3))
    if not (len(begin) == len(end) == len(step) == 1 and step[0]):
        raise call.refuse("counts without an end")
    return [(min(_BEYOND, max(0, math.ceil((end[0] - begin[0]) / step[0]))),)]


def window(call: Call) -> Shapes:
    """Make the numbers of a window."""
    return [(max(0, *call.sizes(0), 0),)]


def slice_(call: Call) -> Shapes:
    """Cut every n-th out between two places along axes."""
    shape = list(call.shape())
    begins, ends = call.listed(1, "starts"), call.listed(2, "ends")
    axes, steps = call.listed(3, "axes"), call.listed(4, "steps")
    if begins is None or ends is None or axes is None or steps is None:
        return [tuple(shape)]
    axes, steps = axes or tuple(range(len(begins))), steps or (1,) * len(begins)
    for axis, begin, end, step in zip(axes, begins, ends, steps, strict=False):
        place = call.axis(axis, len(shape))
        stop = None if step < 0 and end < -shape[place] else end
        shape[place] = len(range(*slice(begin, stop, step).indices(shape[place]))) if step else shape[place]
    return [tuple(shape)]


def gather(call: Call) -> Shapes:
    """Take the places that indices name out along an axis."""
    shape = call.shape(0, 1)
    return [_with(shape, call.axis(call.integer("axis", 0), len(shape)), *call.shape(1))]


def gather_nd(call: Call) -> Shapes:
    """Take the places that index vectors name out."""
    shape, indices = call.shape(0, 1), call.shape(1, 1)
    skipped = call.integer("batch_dims", 0)
    if not 0 <= skipped < min(len(shape), len(indices)) or not 1 <= indices[-1] <= len(shape) - skipped:
        raise call.refuse(f"has index vectors of {indices[-1]} numbers and {skipped} axes of batches")
    return [(*indices[:-1], *shape[skipped + indices[-1] :])]


def like_second(call: Call) -> Shapes:
    """As many values as there are indices."""
    return [call.shape(1)]


def one_hot(call: Call) -> Shapes:
    """Put a value where an index points, another elsewhere."""
    shape, depth = call.shape(), call.sizes(1)
    axis = call.axis(call.integer("axis", -1), len(shape) + 1)
    return [(*shape[:axis], max(0, *depth, 0), *shape[axis:])]


def top(call: Call) -> Shapes:
    """Find the largest along an axis, and where they are."""
    shape = call.shape(0, 1)
    axis = call.axis(call.integer("axis", -1), len(shape))
    count = call.listed(1, "k") if call.optional(1) else (call.integer("k", 0),)
    return [_with(shape, axis, min(shape[axis], max(0, count[0])) if count else shape[axis])] * 2


def nonzero(call: Call) -> Shapes:
    """Find the places of what is not 0: all, at the most."""
    return [(len(call.shape()), call.input(0).elements)]


def compress(call: Call) -> Shapes:
    """Take out what a condition holds for: all, at the most."""
    return [call.shape() if "axis" in call.attributes else (call.input(0).elements,)]


def unique(call: Call) -> Shapes:
    """Find the values that differ: all, at the most."""
    elements = call.input(0).elements
    return [call.shape() if "axis" in call.attributes else (elements,), *[(elements,)] * 3]


def depth_to_space(call: Call) -> Shapes:
    """Spread channels over places."""
    batch, channels, height, width, *_ = call.shape(0, 4)
    block = max(1, call.integer("blocksize", 1))
    return [(batch, -(-channels // block**2), height * block, width * block)]


def space_to_depth(call: Call) -> Shapes:
    """Gather places into channels."""
    batch, channels, height, width, *_ = call.shape(0, 4)
    block = max(1, call.integer("blocksize", 1))
    return [(batch, channels * block**2, -(-height // block), -(-width // block))]


def resize(call: Call) -> Shapes:
    """Scale along axes: by factors or to sizes, which stand behind the region of interest, if there is one."""
    shape = list(call.shape())
    given = [each for each in range(1, len(call.inputs)) if call.inputs[each] and call.shape(each) != (0,)]
    if not given:
        raise call.refuse("has neither sizes nor scales")
    numbers = call.numbers(given[-1])
    axes = [call.axis(axis, len(shape)) for axis in call.integers("axes") or range(min(len(shape), len(numbers)))]
    pairs = [(axis, number) for axis, number in zip(axes, numbers, strict=False)]
    policy = call.text("keep_aspect_ratio_policy")
    if given[-1] == 3 and policy in ("not_larger", "not_smaller") and pairs:
        scales = [number / max(1, shape[axis]) for axis, number in pairs]
        scale = min(scales) if policy == "not_larger" else max(scales)
        pairs = [(axis, round(min(shape[axis] * scale, _BEYOND))) for axis, _ in pairs]
    elif given[-1] != 3:
        pairs = [(axis, math.floor(min(shape[axis] * number, _BEYOND))) for axis, number in pairs]
    for axis, size in pairs:
        shape[axis] = max(0, int(size))
    return [tuple(shape)]


def grid_sample(call: Call) -> Shapes:
    """Take values where a grid points."""
    return [(*call.shape(0, 2)[:2], *call.shape(1, 1)[1:-1])]


def affine_grid(call: Call) -> Shapes:
    """Make a grid for each picture."""
    sizes = tuple(max(0, size) for size in call.sizes(1))
    return [(*sizes[:1], *sizes[2:], max(0, len(sizes) - 2))]


def regions(call: Call) -> Shapes:
    """Take regions out of pictures, scaled to one size."""
    sizes = call.integer("output_height", 1), call.integer("output_width", 1)
    return [(*call.shape(1, 1)[:1], *call.shape(0, 2)[1:2], *(max(0, size) for size in sizes))]


def suppressed(call: Call) -> Shapes:
    """Find the boxes that remain: so many in each class of each picture at the most."""
    batch, boxes, *_ = call.shape(0, 2)
    classes = call.shape(1, 2)[1]
    most = call.sizes(2) if call.optional(2) else (0,)
    return [(batch * classes * min(boxes, max(0, *most, 0)), 3)]


def blocks(call: Call) -> Shapes:
    """Put windows back into a picture."""
    batch, rows, *_ = call.shape(0, 2)
    sizes, window_ = call.sizes(1), call.sizes(2)
    return [(batch, -(-rows // max(1, math.prod(window_))), *(max(0, size) for size in sizes))]
