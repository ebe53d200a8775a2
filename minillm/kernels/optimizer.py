"""The AdamW update and the sum of squares behind the gradient norm.   C side: csrc/optimizer.c

Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
"""

import numpy as np

from minillm.kernels import _cffi
from minillm.kernels.kernel import Kernel, rungs


def adamw_specification(
    p: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    step: int,
) -> None:
    """m ← β₁ m + (1-β₁) g,  v ← β₂ v + (1-β₂) g²,  m̂ = m / (1-β₁^step),  v̂ = v / (1-β₂^step),
    p ← p (1 - lr·decay) - lr m̂ / (√v̂ + eps).   p, m, v: one shape, updated in place; g is read."""
    _check(p, g, m, v)
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (g * g - v)
    p *= 1 - lr * decay
    p -= (lr / (1 - beta1**step)) * m / (np.sqrt(v / (1 - beta2**step)) + eps)


def _check(p, g, m, v) -> None:
    if not p.shape == g.shape == m.shape == v.shape:
        shapes = [a.shape for a in (p, g, m, v)]
        raise ValueError(f"adamw: p, g, m and v must agree, got {shapes}")


def _adamw(threads, p, g, m, v, lr, beta1, beta2, eps, decay, step):
    _check(p, g, m, v)
    _cffi.lib.ml_adamw(
        p.size, _cffi.target(p), _cffi.source(g), _cffi.target(m), _cffi.target(v),
        lr, beta1, beta2, eps, decay, 1 - beta1**step, 1 - beta2**step, threads(),
    )  # fmt: skip


def sum_squares_specification(x: np.ndarray) -> float:
    """Σ x², summed in float64."""
    x = x.reshape(-1).astype(np.float64, copy=False)
    return float(x @ x)


def _sum_squares(threads, x):
    return _cffi.lib.ml_sum_squares(x.size, _cffi.source(x), threads())


adamw = Kernel(
    "adamw",
    adamw_specification,
    rungs(_adamw),
    flops=lambda p, *rest: 14 * p.size,
    bytes=lambda p, *rest: 7 * p.nbytes,
    floats=4,
)
sum_squares = Kernel(
    "sum_squares",
    sum_squares_specification,
    rungs(_sum_squares),
    flops=lambda x: 2 * x.size,
    bytes=lambda x: x.nbytes,
)
