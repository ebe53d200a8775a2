"""A Kernel record: everything about one hot operation but its calculus.

Its NumPy specification, its C implementations by name (the rungs of a ladder, slowest first), its
cost in FLOP and bytes, and which implementation runs now.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from itertools import chain

import numpy as np

from minillm.kernels import _cffi
from minillm.kernels.threads import threads

observers: list[Callable] = []  # each is called with (kernel, args, kwargs, seconds) after a call


@dataclass(eq=False)
class Kernel:
    """Callable: float32 goes to the chosen implementation, other floats to the specification.

    flops(*args) and bytes(*args) count one call from its arguments: arithmetic, and the compulsory
    traffic (every input read once, every output written once).
    """

    name: str
    specification: Callable
    implementations: dict[str, Callable]
    flops: Callable[..., int]
    bytes: Callable[..., int]
    floats: int = 1  # so many leading arguments are float arrays (or None) …
    lists: bool = False  # … or each is a list of float arrays
    chosen: str = "numpy"
    run: Callable = field(init=False)

    def __post_init__(self) -> None:
        if _cffi.lib is None:
            self.implementations = {}
        self.implementations = {**self.implementations, "numpy": self.specification}
        self.choose(self.names()[-2] if len(self.implementations) > 1 else "numpy")

    def names(self) -> list[str]:
        """The implementations, slowest first; "numpy" stands at the end, beside the ladder."""
        return list(self.implementations)

    def fastest(self) -> str:
        return self.names()[-2] if len(self.implementations) > 1 else "numpy"

    def choose(self, name: str) -> None:
        self.chosen, self.run = name, self.implementations[name]

    def __call__(self, *args, **kwargs):
        if kwargs and len(args) < self.floats:  # an array by keyword
            bound = signature(self.specification).bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        run = self.run
        for a in self._arrays(args):
            if a is not None and (type(a) is not np.ndarray or a.dtype is not _cffi.FLOAT32):
                run, args = self._look_closer(args)
                break
        if not observers:
            return run(*args, **kwargs)
        start = time.perf_counter()
        result = run(*args, **kwargs)
        seconds = time.perf_counter() - start
        for observe in observers:
            observe(self, args, kwargs, seconds)
        return result

    def _look_closer(self, args: tuple) -> tuple[Callable, tuple]:
        """What runs for other arguments than arrays of float32, and with what."""
        if not self.lists:  # a list is never converted, as it may be there to be written to
            args = (*map(_as_float_array, args[: self.floats]), *args[self.floats :])
        others = [a.dtype for a in self._arrays(args) if a is not None and not _cffi.is_float32(a)]
        for dtype in others:
            if dtype.kind != "f":
                raise TypeError(f"{self.name}: expected float arrays, got {dtype}")
        return self.specification if others else self.run, args

    def _arrays(self, args: tuple) -> Sequence[np.ndarray | None]:
        """The arguments that are to be float arrays, or what is in them if they are lists."""
        lists = args[: self.floats]
        if not self.lists:
            return lists
        for each in lists:
            if not isinstance(each, (list, tuple)):
                raise TypeError(f"{self.name}: expected lists of arrays, got {type(each).__name__}")
        arrays = list(chain.from_iterable(lists))
        for kind in set(map(type, arrays)):
            if not issubclass(kind, np.ndarray):
                raise TypeError(f"{self.name}: expected arrays in its lists, got {kind.__name__}")
        return arrays


def _as_float_array(a: object) -> np.ndarray | None:
    if a is None or type(a) is np.ndarray:
        return a
    a = np.asarray(a)
    return a if a.dtype.kind == "f" else a.astype(np.float64)


def rungs(function: Callable) -> dict[str, Callable]:
    """The two rungs of a kernel whose C side has one form: on one thread, and on all of them."""
    return {"simd": partial(function, lambda: 1), "parallel": partial(function, threads)}


def check_indices(name: str, ids: np.ndarray, rows: int, ignored: int | None = None) -> None:
    """Raises: ValueError unless every index is in 0 … rows - 1, or the one ignored."""
    kept = ids if ignored is None else ids[ids != ignored]
    if kept.size and (kept.min() < 0 or kept.max() >= rows):
        raise ValueError(
            f"{name}: indices must be in 0 … {rows - 1}, got {kept.min()} … {kept.max()}"
        )
