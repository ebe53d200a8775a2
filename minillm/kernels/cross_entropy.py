"""Cross-entropy of logits against class indices, a row at a time.   C side: csrc/cross_entropy.c"""

import numpy as np

from minillm.kernels import _cffi
from minillm.kernels.kernel import Kernel, check_indices, rungs


def specification(
    x: np.ndarray, targets: np.ndarray, ignored: int = -100, smoothing: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """loss = lse - (1 - s) x[target] - s mean(x),  lse = log Σ exp(x), s = label smoothing.

    x: (rows, N) logits; targets: (rows,) int64 → loss (rows,), lse (rows,); an ignored row's are 0.
    """
    _check("cross_entropy", x, targets, ignored)
    keep = targets != ignored
    with np.errstate(invalid="ignore", under="ignore", over="ignore"):
        top = x.max(-1)
        lse = top + np.log(np.exp(x - top[:, None]).sum(-1))
        picked = np.take_along_axis(x, np.where(keep, targets, 0)[:, None], 1)[:, 0]
        loss = (1 - smoothing) * (lse - picked)
        if smoothing:
            loss = loss + smoothing * (lse - x.mean(-1))
    return np.where(keep, loss, 0).astype(lse.dtype), np.where(keep, lse, 0).astype(lse.dtype)


def vjp_specification(
    x: np.ndarray,
    lse: np.ndarray,
    g: np.ndarray,
    targets: np.ndarray,
    ignored: int = -100,
    smoothing: float = 0.0,
) -> np.ndarray:
    """dx_j = g (exp(x_j - lse) - (1 - s) [j = target] - s / N).   g: (rows,) → dx (rows, N)."""
    _check("cross_entropy_vjp", x, targets, ignored, lse, g)
    keep = targets != ignored
    with np.errstate(invalid="ignore", under="ignore", over="ignore"):
        dx = np.exp(x - lse[:, None]) - x.dtype.type(smoothing / x.shape[-1])
        dx[np.arange(len(x)), np.where(keep, targets, 0)] -= x.dtype.type(1 - smoothing)
        return np.where(keep[:, None], dx * g[:, None], 0).astype(dx.dtype, copy=False)


def _check(name, x, targets, ignored, *per_row) -> None:
    shapes = [a.shape for a in (targets, *per_row)]
    fits = x.ndim == 2 and all(shape == x.shape[:1] for shape in shapes)
    if not fits:
        raise ValueError(f"{name}: logits {x.shape} do not fit {shapes}")
    check_indices(f"{name}: targets", targets, x.shape[1], ignored)


def _compiled(threads, x, targets, ignored=-100, smoothing=0.0):
    _check("cross_entropy", x, targets, ignored)
    rows, n = x.shape
    loss, lse = np.empty(rows, np.float32), np.empty(rows, np.float32)
    _cffi.lib.ml_cross_entropy(
        rows, n, _cffi.source(x), _cffi.ids(targets), ignored, smoothing,
        _cffi.target(loss), _cffi.target(lse), threads(),
    )  # fmt: skip
    return loss, lse


def _compiled_vjp(threads, x, lse, g, targets, ignored=-100, smoothing=0.0):
    _check("cross_entropy_vjp", x, targets, ignored, lse, g)
    rows, n = x.shape
    dx, dx_to = _cffi.output((rows, n))
    _cffi.lib.ml_cross_entropy_vjp(
        rows, n, _cffi.source(x), _cffi.ids(targets), ignored, smoothing,
        _cffi.source(lse), _cffi.source(g), dx_to, threads(),
    )  # fmt: skip
    return dx


cross_entropy = Kernel(
    "cross_entropy",
    specification,
    rungs(_compiled),
    flops=lambda x, *rest: 22 * x.size,
    bytes=lambda x, *rest: x.nbytes,
)
cross_entropy_vjp = Kernel(
    "cross_entropy_vjp",
    vjp_specification,
    rungs(_compiled_vjp),
    flops=lambda x, *rest: 23 * x.size,
    bytes=lambda x, *rest: 2 * x.nbytes,
    floats=3,
)
