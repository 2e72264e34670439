"""The output shapes of operators of a TFLite graph: those that move, combine and reduce values.

Each rule returns the shapes of the outputs, or refuses what no runtime should be asked to do. A runtime works the
shapes out anew: a file whose shapes follow from its inputs and constants gives it nothing to be surprised by.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from edgefuse.bundle.tflite.call import MAX_LIST, Call, broadcast, product, replaced
from edgefuse.bundle.tflite.schema import MAX_ELEMENTS, MAX_RANK, TYPES, Shape

Shapes = Sequence[Shape]


def same(call: Call) -> Shapes:
    """Values one by one, or along an axis: the shape stays."""
    return [call.shape(0)]


def along(call: Call) -> Shapes:
    """Values along the last axis: the shape stays."""
    call.need(call.shape(0), "input is a scalar")
    return [call.shape(0)]


def carried(call: Call) -> Shapes:
    """Tensors that a loop hands from step to step."""
    return [call.shape(position) for position in range(len(call.inputs))]


def aligned(call: Call) -> Shapes:
    """Tensors of one shape, number by number."""
    call.need(len({call.shape(position) for position in range(len(call.inputs))}) == 1, "inputs differ in shape")
    return [call.shape(0)]


def elementwise(call: Call) -> Shapes:
    """Two or three tensors that are repeated to one shape."""
    return [broadcast(call, *(call.shape(position) for position in range(len(call.inputs))))]


def onto_first(call: Call) -> Shapes:
    """Tensors that are repeated to the first one's shape."""
    shape = call.shape(0)
    call.need(broadcast(call, shape, call.shape(1)) == shape, "second input is larger than the first")
    return [shape]


def select(call: Call) -> Shapes:
    """Choose between two tensors of one shape by one that is the same, a row for each first index, or a scalar."""
    condition, first, second = (call.shape(position) for position in range(3))
    call.need(first == second and condition in (first, first[:1], (), (1,)), "shapes do not fit each other")
    return [first]


def reduce(call: Call) -> Shapes:
    """Take axes together."""
    shape = call.shape(0)
    axes = {call.axis(axis, len(shape)) for axis in call.constant(1)}
    kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
    return [tuple(kept) if call.options["keep_dims"] else tuple(s for a, s in enumerate(shape) if a not in axes)]


def arg_reduce(call: Call) -> Shapes:
    """Find the largest or smallest along an axis."""
    shape, kind = call.shape(0), TYPES.get(call.integer("output_type"))
    call.need(kind is not None and kind[0] == call.outputs[0].dtype, "output has another type than its option")
    return [replaced(shape, call.axis(call.scalar(1), len(shape)))]


def cumulate(call: Call) -> Shapes:
    """Sum up along an axis."""
    call.axis(call.scalar(1), len(call.shape(0)))
    return [call.shape(0)]


def top(call: Call) -> Shapes:
    """Find the largest along the last axis, and where they are."""
    shape = call.shape(0)
    call.need(shape, "input is a scalar")
    found = (*shape[:-1], call.scalar(1, 1, shape[-1]))
    return [found, found]


def _sizes(call: Call, position: int) -> Shape:
    """Return a shape that a constant holds."""
    sizes = call.constant(position, 1, MAX_ELEMENTS)
    call.need(len(sizes) <= MAX_RANK and product(sizes) <= MAX_ELEMENTS, f"output would be {list(sizes)}")
    return sizes


def reshape(call: Call) -> Shapes:
    """Read the same values in another shape; one size may be -1."""
    option = call.options["new_shape"]
    wanted = call.constant(1, -1) if len(call.inputs) == 2 else tuple(option) if isinstance(option, tuple) else ()
    call.need(len(call.inputs) == 1 or len(call.shape(1)) == 1, "shape is no list")
    elements = call.input(0).elements
    known = product([size for size in wanted if size != -1])
    call.need(len(wanted) <= MAX_RANK and wanted.count(-1) <= 1 and 0 not in wanted, f"output would be {list(wanted)}")
    sizes = tuple(elements // known if size == -1 else size for size in wanted)
    call.need(product(sizes) == elements, f"output would be {list(sizes)}")
    return [sizes]


def squeeze(call: Call) -> Shapes:
    """Leave axes of size 1 out."""
    shape, axes = call.shape(0), call.options["squeeze_dims"]
    listed = axes if isinstance(axes, tuple) else ()
    gone = {call.axis(axis, len(shape)) for axis in listed} or {axis for axis, size in enumerate(shape) if size == 1}
    call.need(all(shape[axis] == 1 for axis in gone), f"squeezed axes {sorted(gone)} are not of size 1")
    return [tuple(size for axis, size in enumerate(shape) if axis not in gone)]


def expand_dims(call: Call) -> Shapes:
    """Put an axis of size 1 in."""
    shape = call.shape(0)
    axis = call.axis(call.scalar(1), len(shape) + 1)
    return [(*shape[:axis], 1, *shape[axis:])]


def transpose(call: Call) -> Shapes:
    """Put axes into another order."""
    shape, order = call.shape(0), call.constant(1)
    call.need(sorted(order) == list(range(len(shape))), f"order is {list(order)}")
    return [tuple(shape[axis] for axis in order)]


def broadcast_to(call: Call) -> Shapes:
    """Repeat to a shape."""
    sizes = _sizes(call, 1)
    call.need(broadcast(call, call.shape(0), sizes) == sizes, f"output would be {list(sizes)}")
    return [sizes]


def tile(call: Call) -> Shapes:
    """Repeat along each axis."""
    shape, times = call.shape(0), call.constant(1, 1, MAX_ELEMENTS)
    call.need(len(times) == len(shape), f"multiples are {list(times)}")
    return [tuple(size * each for size, each in zip(shape, times, strict=True))]


def fill(call: Call) -> Shapes:
    """Repeat a scalar to a shape."""
    call.shape(1, 0)
    return [_sizes(call, 0)]


def concatenate(call: Call) -> Shapes:
    """Put tensors one behind the other along an axis."""
    shapes = [call.shape(position) for position in range(len(call.inputs))]
    axis = call.axis(call.integer("axis", -MAX_RANK, MAX_RANK), len(shapes[0]))
    same_elsewhere = {(len(shape), replaced(shape, axis) if axis < len(shape) else ()) for shape in shapes}
    call.need(len(same_elsewhere) == 1, "inputs do not fit each other")
    return [replaced(shapes[0], axis, sum(shape[axis] for shape in shapes))]


def pack(call: Call) -> Shapes:
    """Put tensors of one shape one behind the other along a new axis."""
    shapes = {call.shape(position) for position in range(len(call.inputs))}
    call.need(len(shapes) == 1 and call.options["values_count"] == len(call.inputs), "inputs do not fit each other")
    shape = shapes.pop()
    axis = call.axis(call.integer("axis", -MAX_RANK, MAX_RANK), len(shape) + 1)
    return [(*shape[:axis], len(call.inputs), *shape[axis:])]


def unpack(call: Call) -> Shapes:
    """Take a tensor apart along an axis, which is then gone."""
    shape = call.shape(0)
    axis = call.axis(call.integer("axis", -MAX_RANK, MAX_RANK), len(shape))
    call.need(call.options["num"] == len(call.outputs) == shape[axis], "outputs are not what the axis holds")
    return [replaced(shape, axis)] * len(call.outputs)


def split(call: Call) -> Shapes:
    """Take a tensor apart into equal parts."""
    shape = call.shape(1)
    axis, count = call.axis(call.scalar(0), len(shape)), len(call.outputs)
    call.need(call.options["num_splits"] == count and shape[axis] % count == 0, f"{count} parts do not fit")
    return [replaced(shape, axis, shape[axis] // count)] * count


def split_v(call: Call) -> Shapes:
    """Take a tensor apart into parts of given sizes."""
    shape, sizes = call.shape(0), call.constant(1, 1)
    axis = call.axis(call.scalar(2), len(shape))
    fits = call.options["num_splits"] == len(call.outputs) == len(sizes) and sum(sizes) == shape[axis]
    call.need(fits, f"parts {list(sizes)} do not fit")
    return [replaced(shape, axis, size) for size in sizes]


def slice_(call: Call) -> Shapes:
    """Cut a box out; a size of -1 goes to the end."""
    shape, begins, sizes = call.shape(0), call.constant(1, 0), call.constant(2, -1)
    call.need(len(begins) == len(sizes) == len(shape), f"box begins at {list(begins)}")
    found = tuple(
        whole - begin if size == -1 else size for whole, begin, size in zip(shape, begins, sizes, strict=True)
    )
    fits = all(size >= 1 and begin + size <= whole for whole, begin, size in zip(shape, begins, found, strict=True))
    call.need(fits, f"box of {list(found)} begins at {list(begins)}")
    return [found]


_SIGNED = 2**31 - 1


def strided_slice(call: Call) -> Shapes:
    """Cut every n-th out between two places along each axis, counted from the end where negative."""
    shape = call.shape(0)
    begins, ends, strides = (call.constant(position) for position in (1, 2, 3))
    masks = [call.integer(f"{name}_mask", 0, _SIGNED) for name in ("begin", "end", "shrink_axis")]
    call.need(not call.integer("ellipsis_mask") and not call.integer("new_axis_mask"), "axes are open")
    call.need(not call.options["offset"], "ends are offsets")
    call.need(len(begins) == len(ends) == len(strides) <= len(shape), f"box begins at {list(begins)}")
    found: list[int] = []
    for axis, size in enumerate(shape):
        if axis >= len(begins):
            found.append(size)
            continue
        from_start, to_end, shrunk = (bool(mask >> axis & 1) for mask in masks)
        part = slice(None if from_start else begins[axis], None if to_end else ends[axis], strides[axis] or None)
        if shrunk:
            call.need(not from_start and strides[axis] == 1, "axis has no place")
            call.axis(begins[axis], size)
            continue
        call.need(strides[axis] != 0 and len(range(*part.indices(size))) > 0, f"part of axis {axis} is empty")
        found.append(len(range(*part.indices(size))))
    return [tuple(found)]


def _paddings(call: Call) -> list[tuple[int, int]]:
    """Return what comes before and behind each axis."""
    rank = len(call.shape(0))
    call.need(call.shape(1) == (rank, 2), "paddings are not two for each axis")
    flat = call.constant(1, 0, MAX_ELEMENTS)
    return list(zip(flat[::2], flat[1::2], strict=True))


def pad(call: Call) -> Shapes:
    """Put a value around."""
    if len(call.inputs) > 2:
        call.need(call.input(2).elements == 1, "value is not one")
    return [tuple(size + sum(both) for size, both in zip(call.shape(0), _paddings(call), strict=True))]


_REFLECT, _SYMMETRIC = 0, 1


def mirror_pad(call: Call) -> Shapes:
    """Put the tensor's own values around, mirrored."""
    most = 0 if call.integer("mode", _REFLECT, _SYMMETRIC) == _SYMMETRIC else 1
    sizes = list(zip(call.shape(0), _paddings(call), strict=True))
    call.need(all(max(both) <= size - most for size, both in sizes), "paddings are larger than the input")
    return [tuple(size + sum(both) for size, both in sizes)]


def reverse(call: Call) -> Shapes:
    """Turn axes around."""
    axes = [call.axis(axis, len(call.shape(0))) for axis in call.constant(1)]
    call.need(axes and all(b == a + 1 for a, b in pairwise(axes)), f"axes are {axes}")
    return [call.shape(0)]


def gather(call: Call) -> Shapes:
    """Take the places that indices name out along an axis."""
    shape, indices = call.shape(0), call.shape(1)
    axis = call.axis(call.integer("axis", -MAX_RANK, MAX_RANK), len(shape))
    batch = call.integer("batch_dims", 0, min(axis, len(indices)))
    call.need(shape[:batch] == indices[:batch], "batches do not fit each other")
    call.check_indices(1, shape[axis])
    return [replaced(shape, axis, *indices[batch:])]


def gather_nd(call: Call) -> Shapes:
    """Take the places that index vectors name out."""
    shape, indices = call.shape(0), call.shape(1)
    call.need(indices and indices[-1] <= len(shape), "index vectors are longer than the input's rank")
    call.check_indices(1, max(shape, default=1))
    return [(*indices[:-1], *shape[indices[-1] :])]


def lookup(call: Call) -> Shapes:
    """Take rows of a table out."""
    (count,), table = call.shape(0, 1), call.shape(1)
    stored, given = call.input(1).dtype, call.outputs[0].dtype
    call.need(given == "float32" and stored in ("float32", "int8", "int4"), f"table of {stored} gives {given}")
    call.need(len(table) >= 2, "table has no rows")
    call.check_indices(0, table[0])
    return [(count, *table[1:])]


def one_hot(call: Call) -> Shapes:
    """Put a value where an index points, another elsewhere."""
    shape, depth = call.shape(0), call.scalar(1, 1, MAX_ELEMENTS)
    call.shape(2, 0)
    call.shape(3, 0)
    axis = call.axis(call.integer("axis", -1, MAX_RANK), len(shape) + 1)
    return [(*shape[:axis], depth, *shape[axis:])]


def update_slice(call: Call) -> Shapes:
    """Write a box into a tensor; a runtime moves one that would stick out."""
    shape, update = call.shape(0), call.shape(1)
    call.need(call.shape(2, 1) == (len(shape),) and len(update) == len(shape), "box has another rank")
    call.need(all(inner <= outer for inner, outer in zip(update, shape, strict=True)), "box is larger than the input")
    return [shape]


def depth_to_space(call: Call) -> Shapes:
    """Spread channels over places."""
    batch, height, width, channels = call.shape(0, 4)
    block = call.integer("block_size", 1)
    call.need(channels % block**2 == 0, f"block of {block} does not fit")
    return [(batch, height * block, width * block, channels // block**2)]


def space_to_depth(call: Call) -> Shapes:
    """Gather places into channels."""
    batch, height, width, channels = call.shape(0, 4)
    block = call.integer("block_size", 1)
    call.need(height % block == 0 and width % block == 0, f"block of {block} does not fit")
    return [(batch, height // block, width // block, channels * block**2)]


def resize(call: Call) -> Shapes:
    """Scale pictures."""
    batch, _, _, channels = call.shape(0, 4)
    call.need(not (call.options["align_corners"] and call.options["half_pixel_centers"]), "corners are two things")
    height, width = call.constant(1, 1, MAX_ELEMENTS) if call.shape(1) == (2,) else (0, 0)
    call.need(height * width, "size is not two")
    return [(batch, height, width, channels)]


def spectrum(call: Call) -> Shapes:
    """Take the real Fourier transform of the last two axes, whose lengths are powers of two."""
    shape, lengths = call.shape(0), call.constant(1, 1, MAX_LIST * 2**14)
    call.need(len(shape) >= 2 and len(lengths) == 2, "length is not two")
    call.need(all(length & (length - 1) == 0 for length in lengths), f"lengths are {list(lengths)}")
    return [(*shape[:-2], lengths[0], lengths[1] // 2 + 1)]
