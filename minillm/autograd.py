"""Reverse-mode automatic differentiation over NumPy arrays.

A Tensor is an array and, if it came from a differentiable operation, the Node that made it. A Node
holds the operation's vector-Jacobian product and the Nodes (or leaf Tensors) of its inputs; saved
values live in the product's closure as arrays, so nothing points back and nothing is a cycle.

Source: after Maclaurin, Duvenaud and Adams, autograd; Griewank and Walther 2008, chapter 3.
"""

import inspect
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from heapq import heappop, heappush
from importlib import import_module
from typing import NamedTuple

import numpy as np

# Each is called with (name, phase, seconds, start) at the end of an operation, whose phase is
# "forward" or "backward", and of a function marked by `observed`, inside which others may have
# ended before. start: of time.perf_counter().
observers: list[Callable] = []
_mode = threading.local()
_count = itertools.count()


def grad_enabled() -> bool:
    """Whether operations record what backward() needs; per thread."""
    return getattr(_mode, "grad", True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Operations inside record nothing: results do not require gradients."""
    before, _mode.grad = grad_enabled(), False
    try:
        yield
    finally:
        _mode.grad = before


def observed(phase: str) -> Callable:
    """Tell the observers, if there are any, of every call of the function.

    The name is that of the definition, such as "Tensor.backward".
    """

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def call(*args, **kwargs):
            if not observers:
                return function(*args, **kwargs)
            start = time.perf_counter()
            result = function(*args, **kwargs)
            _tell(function.__qualname__, phase, start)
            return result

        return call

    return decorate


class Node:
    """One recorded operation. `order` grows with creation, so inputs always come before users."""

    __slots__ = ("inputs", "name", "order", "vjp")

    def __init__(self, name: str, vjp: Callable, inputs: "list[Node | Tensor | None]"):
        self.name, self.vjp, self.inputs, self.order = name, vjp, inputs, next(_count)


class Tensor:
    """An array that remembers how it was made.

    array: anything np.asarray takes; Python floats become float32, arrays keep their dtype.
    Raises: TypeError if requires_grad and the array is not of floats.
    """

    __slots__ = ("data", "grad", "node", "requires_grad")
    __array_ufunc__ = None  # array * tensor is tensor.__rmul__(array), not an array of tensors

    def __init__(self, array: object, requires_grad: bool = False):
        data = array if type(array) is np.ndarray else _as_array(array)
        if requires_grad and data.dtype.kind != "f":
            raise TypeError(f"Tensor: only floats can require gradients, got {data.dtype}")
        self.data: np.ndarray = data
        self.grad: np.ndarray | None = None
        self.requires_grad = requires_grad
        self.node: Node | None = None

    @observed("backward")
    def backward(self, grad: object = None, retain_graph: bool = False) -> None:
        """Add to .grad of every leaf below: Σ over paths of the chain rule, from cotangent `grad`.

        grad: this tensor's shape; a scalar may leave it out (1). retain_graph: keep the saved
        values for another backward. Raises: ValueError without a fitting cotangent, RuntimeError
        where nothing requires gradients or the graph was freed by an earlier backward.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: this tensor does not require gradients")
        if grad is None and self.data.size != 1:
            raise ValueError(
                f"backward: a tensor of shape {self.shape} needs a cotangent of that shape; "
                "only a scalar can leave it out"
            )
        grad = grad.data if isinstance(grad, Tensor) else grad
        dy = np.ones_like(self.data) if grad is None else np.asarray(grad, self.dtype)
        if dy.shape != self.shape:
            raise ValueError(
                f"backward: expected a cotangent of shape {self.shape}, got {dy.shape}"
            )
        gradients = Gradients()
        gradients.add(self.node or self, dy, dy)
        while gradients.waiting:
            _step_back(gradients, retain_graph)
        gradients.store()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def T(self) -> "Tensor":
        return _functional().permute(self, tuple(range(self.ndim))[::-1])

    def item(self) -> float:
        return self.data.item()

    def numpy(self) -> np.ndarray:
        return self.data

    def detach(self) -> "Tensor":
        """The same array, cut from the graph."""
        return Tensor(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        made_by = f", made by {self.node.name}" if self.node else ""
        return f"Tensor({self.data}, requires_grad={self.requires_grad}{made_by})"

    def __float__(self) -> float:
        return float(self.data)

    # The operators, each a function of minillm.functional.
    def __add__(self, other):
        return _functional().add(self, other)

    def __radd__(self, other):
        return _functional().add(other, self)

    def __sub__(self, other):
        return _functional().sub(self, other)

    def __rsub__(self, other):
        return _functional().sub(other, self)

    def __mul__(self, other):
        return _functional().mul(self, other)

    def __rmul__(self, other):
        return _functional().mul(other, self)

    def __truediv__(self, other):
        return _functional().div(self, other)

    def __rtruediv__(self, other):
        return _functional().div(other, self)

    def __pow__(self, other):
        return _functional().pow(self, other)

    def __rpow__(self, other):
        return _functional().pow(other, self)

    def __matmul__(self, other):
        return _functional().matmul(self, other)

    def __rmatmul__(self, other):
        return _functional().matmul(other, self)

    def __neg__(self):
        return _functional().neg(self)

    def __getitem__(self, index):
        return _functional().getitem(self, index)

    def sum(self, dim=None, keepdim=False):
        return _functional().sum(self, dim, keepdim)

    def mean(self, dim=None, keepdim=False):
        return _functional().mean(self, dim, keepdim)

    def var(self, dim=None, correction=1, keepdim=False):
        return _functional().var(self, dim, correction, keepdim)

    def max(self, dim=None, keepdim=False):
        return _functional().max(self, dim, keepdim)

    def exp(self):
        return _functional().exp(self)

    def log(self):
        return _functional().log(self)

    def sqrt(self):
        return _functional().sqrt(self)

    def tanh(self):
        return _functional().tanh(self)

    def sigmoid(self):
        return _functional().sigmoid(self)

    def relu(self):
        return _functional().relu(self)

    def softmax(self, dim=-1):
        return _functional().softmax(self, dim)

    def reshape(self, *shape):
        return _functional().reshape(self, _one_tuple(shape))

    view = reshape

    def permute(self, *dims):
        return _functional().permute(self, _one_tuple(dims))

    def expand(self, *shape):
        return _functional().expand(self, _one_tuple(shape))

    def transpose(self, dim0, dim1):
        return _functional().transpose(self, dim0, dim1)

    def masked_fill(self, mask, value):
        return _functional().masked_fill(self, mask, value)


def _as_array(a: object) -> np.ndarray:
    if isinstance(a, Tensor):
        return a.data
    data = np.asarray(a)
    python_floats = data.dtype == np.float64 and not isinstance(a, np.ndarray | np.generic)
    return data.astype(np.float32) if python_floats else data


def _one_tuple(args: tuple) -> tuple[int, ...]:
    """reshape(2, 3) and reshape((2, 3)) are the same."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], tuple | list) else args


def _functional():
    """The one upward reference: an operator finds its function when it is used, not at import."""
    return sys.modules.get("minillm.functional") or import_module("minillm.functional")


def op(forward: Callable) -> Callable:
    """Make a function on arrays, which returns (value, vjp), a differentiable one on Tensors.

    vjp(dy) returns a gradient for each positional argument in turn (None where there is none): a
    fresh array, dy itself, a view of dy, or a function without arguments that computes the gradient
    and is only called if someone needs it. In place of vjp there may be an Adding. Tensors and
    arrays may be mixed.
    """
    name = forward.__name__.strip("_")
    signature = inspect.signature(forward)

    @wraps(forward)
    def apply(*args, **kwargs):
        if kwargs and any(isinstance(a, Tensor) for a in kwargs.values()):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            args, kwargs = bound.args, bound.kwargs
        start = time.perf_counter() if observers else 0.0
        value, vjp = forward(*[a.data if isinstance(a, Tensor) else a for a in args], **kwargs)
        if observers:
            _tell(name, "forward", start)
        result = Tensor(value)
        if grad_enabled():
            inputs = [
                (a.node or a) if isinstance(a, Tensor) and a.requires_grad else None for a in args
            ]
            if inputs.count(None) < len(inputs):
                result.requires_grad, result.node = True, Node(name, vjp, inputs)
        return result

    return apply


def _tell(name: str, phase: str, start: float) -> None:
    seconds = time.perf_counter() - start
    for observe in observers:
        observe(name, phase, seconds, start)


class Adding(NamedTuple):
    """vjp(dy, before) whose gradient for argument number `to` has been added to `before`, the one
    that was there (or None), in the same pass over memory: in place, or as a fresh array.
    """

    vjp: Callable[[np.ndarray, np.ndarray | None], tuple]
    to: int = 0
    in_place: bool = False


class Gradients:
    """The gradients that have arrived so far, by Node or leaf Tensor, and the Nodes waiting for
    their turn: the newest first, as all its users are newer, so that its sum is complete.

    A gradient that nobody else can hold is added to in place; one that shares memory with dy (the
    two gradients of an addition are one array) or is read-only is copied before it is written.
    """

    def __init__(self) -> None:
        self.arrived: dict[Node | Tensor, np.ndarray] = {}
        self.ours: set[Node | Tensor] = set()
        self.waiting: list[tuple[int, Node]] = []  # a heap

    def add(self, to: Node | Tensor, g: np.ndarray | Callable, dy: np.ndarray) -> None:
        if isinstance(to, Node) and to not in self.arrived:
            heappush(self.waiting, (-to.order, to))
        before = self.arrived.get(to)
        if callable(g):
            g = g()
        fresh = isinstance(g, np.ndarray) and g.flags.writeable and not np.may_share_memory(g, dy)
        if before is None:
            self.arrived[to] = g
            if fresh:
                self.ours.add(to)
        elif to in self.ours and before.dtype == g.dtype:
            self.arrived[to] += g
        else:
            reuse = fresh and before.dtype == g.dtype
            self.arrived[to] = np.add(before, g, out=g) if reuse else before + g
            self.ours.add(to)

    def lend(self, to: Node | Tensor | None, dtype: np.dtype, in_place: bool) -> np.ndarray | None:
        """What has arrived, taken out for an Adding, whose sum comes back by add()."""
        before = self.arrived.get(to)
        if before is None or before.dtype != dtype:
            return None
        self.arrived[to] = None
        return before.copy() if in_place and to not in self.ours else before

    def take(self) -> tuple[Node, np.ndarray]:
        _, node = heappop(self.waiting)
        return node, self.arrived.pop(node)

    def store(self) -> None:
        """Add each leaf's gradient to its .grad, in the leaf's own dtype."""
        for leaf, g in self.arrived.items():  # all nodes are taken
            if leaf.grad is not None:
                leaf.grad = np.asarray(leaf.grad + g, leaf.dtype)
            else:  # np.asarray: arithmetic on 0-d arrays gives scalars
                leaf.grad = np.asarray(g).astype(leaf.dtype, copy=leaf not in self.ours)


def _step_back(gradients: Gradients, retain_graph: bool) -> None:
    """Give each input of the newest node its share of the gradient, then free what it saved."""
    node, dy = gradients.take()
    if node.vjp is None:
        raise RuntimeError(
            f"backward: the graph was freed at {node.name} by an earlier backward(); "
            "that one needs retain_graph=True"
        )
    start = time.perf_counter() if observers else 0.0
    if isinstance(node.vjp, Adding):
        vjp, place, in_place = node.vjp
        shares = vjp(dy, gradients.lend(node.inputs[place], dy.dtype, in_place))
    else:
        shares = node.vjp(dy)
    for to, g in zip(node.inputs, shares, strict=False):
        if to is not None and g is not None:
            gradients.add(to, g, dy)
    if observers:
        _tell(node.name, "backward", start)
    if not retain_graph:
        node.vjp, node.inputs = None, []
