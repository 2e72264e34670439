"""What one forward pass does with linear layers and attention: who makes what, who reads it, which calls take sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from edgefuse.prune.sizes import sized, tensors_in
from edgefuse.stages.openness import without_checkpoints

_MATMUL = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm, torch.einsum}
_SOFTMAX = {functional.softmax, torch.softmax, torch.Tensor.softmax}
_CONVOLUTIONS = {torch.conv1d, torch.conv2d, torch.conv3d}


@dataclass(eq=False)
class Scope:
    """A module while it runs.

    Attributes:
        name: of the module.
        given: what it was called with: arguments, and those by name.
        count: how many calls with sizes it has made so far.
    """

    name: str
    given: tuple[Any, Any]
    count: int = 0


@dataclass(frozen=True, eq=False)
class Made:
    """A call of a linear layer."""

    name: str
    input: Tensor
    output: Tensor
    scopes: tuple[Scope, ...]


@dataclass(frozen=True, eq=False)
class Attended:
    """A product of attention's weights and values; `number` marks what follows from it."""

    number: int
    query: Tensor
    key: Tensor
    value: Tensor
    result: Tensor
    scopes: tuple[Scope, ...]

    @property
    def sources(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values."""
        return self.query, self.key, self.value


@dataclass(frozen=True)
class SizedCall:
    """A call that takes sizes.

    Attributes:
        kind: see `sizes.Sized`.
        sizes: that it took.
        marks: of what it worked on.
        numbers: its number among the calls with sizes, by running module.
    """

    kind: str
    sizes: tuple[Any, ...]
    marks: frozenset[Any]
    numbers: dict[Scope, int]


@dataclass
class Observation:
    """All that was seen in one forward pass; tensors are kept, with their gradients' graph."""

    made: list[Made] = field(default_factory=list)
    attended: list[Attended] = field(default_factory=list)
    sized: list[SizedCall] = field(default_factory=list)
    marks: dict[int, frozenset[Any]] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)

    def of(self, tensors: Sequence[Tensor]) -> frozenset[Any]:
        """Return the marks of some tensors together."""
        return frozenset().union(*(self.marks.get(id(tensor), frozenset()) for tensor in tensors))

    def made_by(self, tensor: Tensor) -> list[Made]:
        """Return the calls of linear layers that a tensor comes from, with no other layer between."""
        marks = self.of([tensor])
        return [made for made in self.made if made in marks]

    def reader(self, attended: Attended) -> Made | None:
        """Return the first linear layer that reads the result of an attention."""
        return next((made for made in self.made if attended.number in self.of([made.input])), None)


class _Observer(TorchFunctionMode):
    """Marks every tensor by what it comes from."""

    def __init__(self, module: nn.Module, stack: list[Scope]) -> None:
        super().__init__()
        self.seen = Observation()
        self._stack = stack
        self._layers = {id(part.weight): name for name, part in module.named_modules() if isinstance(part, nn.Linear)}
        self._products: dict[str, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = tensors_in([args, kwargs])
        marks = self.seen.of(inputs)
        self._note_sizes(func, args, kwargs, marks)
        result = func(*args, **kwargs)
        outputs = tensors_in(result)
        if not outputs:
            return result
        for output in outputs:
            self.seen.kept.append(output)
            self.seen.marks[id(output)] = self._marks(func, args, kwargs, inputs, output, marks)
        return result

    def _marks(
        self, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], output: Tensor, marks: frozenset[Any]
    ) -> frozenset[Any]:
        if func is functional.linear:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            return self._linear(self._layers.get(id(weight)), inputs[0], output)
        if func in _CONVOLUTIONS:
            return frozenset()
        if func is functional.scaled_dot_product_attention and len(inputs) >= 3:
            return marks | {self._attended(inputs[0], inputs[1], inputs[2], output)}
        if func in _SOFTMAX:
            products = [mark for mark in marks if isinstance(mark, str) and mark.startswith("product")]
            return marks | {f"weights {mark}" for mark in products}
        if func in _MATMUL and len(inputs) == 2:
            return marks | self._product(inputs, output, marks)
        return marks

    def _linear(self, name: str | None, given: Tensor, output: Tensor) -> frozenset[Any]:
        if name is None:
            return frozenset()
        made = Made(name, given, output, tuple(self._stack))
        self.seen.made.append(made)
        return frozenset({made})

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, result: Tensor) -> int:
        number = len(self.seen.attended)
        self.seen.attended.append(Attended(number, query, key, value, result, tuple(self._stack)))
        return number

    def _product(self, inputs: list[Tensor], output: Tensor, marks: frozenset[Any]) -> frozenset[Any]:
        weights = [m for m in self.seen.of(inputs[:1]) if isinstance(m, str) and m.startswith("weights product")]
        if weights:
            query, key = self._products[weights[-1].removeprefix("weights ")]
            return frozenset({self._attended(query, key, inputs[1], output)})
        name = f"product {len(self._products)}"
        self._products[name] = (inputs[0], inputs[1])
        return frozenset({name})

    def _note_sizes(self, func: Any, args: Any, kwargs: Any, marks: frozenset[Any]) -> None:
        call = sized(func, args, kwargs)
        if call is None:
            return
        numbers = {scope: scope.count for scope in self._stack}
        for scope in self._stack:
            scope.count += 1
        if marks:
            self.seen.sized.append(SizedCall(call.kind, call.sizes, marks, numbers))


def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> Observation:
    """Run a module once and return what was seen.

    Args:
        module: in eval mode.
        inputs: positional.
    """
    stack: list[Scope] = []
    observer = _Observer(module, stack)
    with without_checkpoints(), torch.enable_grad(), _scoped(module, stack), observer:
        module(*inputs)
    return observer.seen


@contextmanager
def _scoped(module: nn.Module, stack: list[Scope]) -> Iterator[None]:
    """Keep a stack of the modules that run."""

    def enter(name: str) -> Any:
        def hook(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            stack.append(Scope(name, (args, kwargs)))

        return hook

    def leave(*_: Any) -> None:
        stack.pop()

    with ExitStack() as hooks:
        for name, part in module.named_modules():
            hooks.callback(part.register_forward_pre_hook(enter(name), with_kwargs=True).remove)
            hooks.callback(part.register_forward_hook(leave).remove)
        yield
