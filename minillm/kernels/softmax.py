"""Softmax over the last axis, and its vector-Jacobian product.   C side: csrc/softmax.c

Bytes that memory moves, an element: 8 where y is much larger than the caches and stored past them,
else 12, as a line of y is fetched before it is written. A row of more than 2¹⁷ floats leaves a
core's cache between passes: three of them would move 24, the online form, which finds maximum and
sum together, moves 12 (Milakov and Gimelshein 2018, arXiv:1805.02867).
"""

from functools import partial

import numpy as np

from minillm.kernels import _cffi
from minillm.kernels.kernel import Kernel
from minillm.kernels.threads import threads


def specification(x: np.ndarray, out: np.ndarray | None = None, causal: bool = False) -> np.ndarray:
    """y_j = exp(x_j - max x) / Σ_k exp(x_k - max x).   x: (…, N) → (…, N).

    causal: x is (…, T, S) scores; row t sees its first t + 1 + S - T entries, the rest of y is 0,
    a row that sees nothing is 0.
    """
    _check(x, out, causal)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        if causal:
            seen = np.tri(*x.shape[-2:], k=x.shape[-1] - x.shape[-2], dtype=bool)
            y = np.where(seen, x, x.dtype.type(0))  # an unseen NaN must not count
            top = np.max(y, -1, keepdims=True, where=seen, initial=-np.inf)
            y = np.where(seen, np.exp(y - top), x.dtype.type(0))
            y = np.where(seen, y / y.sum(-1, keepdims=True), x.dtype.type(0))
        elif x.size:
            y = np.exp(x - x.max(-1, keepdims=True))
            y /= y.sum(-1, keepdims=True)
        else:
            y = np.empty(x.shape, x.dtype.newbyteorder("="))
    if out is None:
        return y
    np.copyto(out, y, casting="same_kind")
    return out


def _check(x, out, causal) -> None:
    if x.ndim < 1 + causal:
        raise ValueError(f"softmax: expected at least {1 + causal} axes, got shape {x.shape}")
    if out is not None and out.shape != x.shape:
        raise ValueError(f"softmax: out must have shape {x.shape}, got {out.shape}")


def _compiled(rung: int, parallel: bool, x, out=None, causal=False):
    _check(x, out, causal)
    y = out
    if y is None or not y.flags.carray or not _cffi.is_float32(y) or _partly_overlap(x, y):
        y = np.empty(x.shape, np.float32)
    n, T = x.shape[-1], x.shape[-2] if causal else 0
    if x.size:
        _cffi.lib.ml_softmax(
            rung, x.size // n, n, T, _cffi.source(x), _cffi.target(y), threads() if parallel else 1
        )
    if out is not None and y is not out:
        np.copyto(out, y, casting="same_kind")
        return out
    return y


def _partly_overlap(x: np.ndarray, y: np.ndarray) -> bool:
    """Exactly the same memory is fine: a row is read before it is written."""
    return x is not y and np.may_share_memory(x, y)


def vjp_specification(y: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dx = y ⊙ (dy - Σ_k dy_k y_k).   y, dy: (…, N) → (…, N)."""
    if y.shape != dy.shape:
        raise ValueError(f"softmax_vjp: y and dy must agree, got {y.shape} and {dy.shape}")
    return y * (dy - (dy * y).sum(-1, keepdims=True))


def _compiled_vjp(rung: int, parallel: bool, y, dy):
    if y.shape != dy.shape:
        raise ValueError(f"softmax_vjp: y and dy must agree, got {y.shape} and {dy.shape}")
    dx = np.empty(y.shape, np.float32)
    if y.size:
        n = y.shape[-1]
        _cffi.lib.ml_softmax_vjp(
            rung, y.size // n, n, _cffi.source(y), _cffi.source(dy), _cffi.target(dx),
            threads() if parallel else 1,
        )  # fmt: skip
    return dx


def _rungs(function) -> dict:
    return {
        "naive": partial(function, 0, False),
        "simd": partial(function, 1, False),
        "parallel": partial(function, 1, True),
    }


softmax = Kernel(
    "softmax",
    specification,
    _rungs(_compiled),
    flops=lambda x, out=None, causal=False: 25 * x.size // (1 + causal),  # 20 of them in exp
    bytes=lambda x, out=None, causal=False: 2 * x.nbytes,
)
softmax_vjp = Kernel(
    "softmax_vjp",
    vjp_specification,
    _rungs(_compiled_vjp),
    flops=lambda y, dy: 4 * y.size,
    bytes=lambda y, dy: 3 * y.nbytes,
    floats=2,
)
