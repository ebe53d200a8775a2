"""Three loops that only keep the machine busy, to measure what it can do.   C side: csrc/roof.c

No kernels of a model: they stand in no ladder, and `minillm.observe.roofs` is who calls them.
"""

import numpy as np

from minillm.errors import KernelError
from minillm.kernels import _cffi
from minillm.kernels.threads import forked


def multiply_add(
    rounds: int, threads: int = 1, x: float = 0.5, c: float = 1.0
) -> tuple[int, np.ndarray]:
    """a ← a x + c, so many rounds, from a = 0, 1, 2, … in as many registers as keep a core busy.

    Returns: (FLOP done by all threads, the sum of all a: (threads,) float32). With x = 0.5 and
    c = 1 every a tends to 2.
    """
    _check(threads)
    sums = np.empty(threads, np.float32)
    return _cffi.lib.ml_roof_fma(rounds, x, c, _cffi.target(sums), threads), sums


def read(x: np.ndarray, passes: int = 1) -> np.ndarray:
    """passes · Σ_j x_ij, row i summed by thread i.   x: (threads, n) → (threads,) float32."""
    _check(len(x))
    sums = np.empty(len(x), np.float32)
    pointer, row = _rows(x)
    _cffi.lib.ml_roof_read(x.shape[1], pointer, row, passes, _cffi.target(sums), len(x))
    return sums


def copy(x: np.ndarray, y: np.ndarray, passes: int = 1) -> None:
    """y ← x, so many times, row i by thread i.   x, y: (threads, n) float32."""
    _check(len(x))
    if x.shape != y.shape or not y.flags.writeable:
        raise ValueError(f"copy: expected a writeable y of shape {x.shape}, got {y.shape}")
    (source, x_row), (target, y_row) = _rows(x), _rows(y)
    _cffi.lib.ml_roof_copy(x.shape[1], source, x_row, target, y_row, passes, len(x))


def _rows(x: np.ndarray) -> tuple[object, int]:
    """(pointer to the first row, elements from a row to the next)."""
    pointer, (row, column) = _cffi.first(x), x.strides
    if column != x.itemsize:
        raise ValueError(f"expected rows of adjacent elements, got the strides {x.strides}")
    return pointer, row // x.itemsize


def _check(threads: int) -> None:
    """Raises: KernelError where the loops are not compiled, or their threads would hang."""
    if _cffi.lib is None:
        raise KernelError(f"the machine's roofs need the compiled kernels: {_cffi.REMEDY}")
    if threads < 1:
        raise ValueError(f"expected 1 thread or more, got {threads}")
    if threads > 1 and forked():
        raise KernelError(
            "a forked process has none of its parent's threads: start it with spawn, or measure "
            "with 1 thread"
        )
