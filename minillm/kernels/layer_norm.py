"""Layer normalisation over the last axis, forward and backward.   C side: csrc/layer_norm.c

Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450, equation 3.
"""

import numpy as np

from minillm.kernels import _cffi
from minillm.kernels.kernel import Kernel, rungs


def specification(
    x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, eps: float = 1e-5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y = (x - mean) · rstd · weight + bias,  rstd = 1 / √(var + eps).

    x: (…, N); weight, bias: (N,) or None → y (…, N), mean (…), rstd (…).
    """
    _check(x, weight, bias)
    mean = x.mean(-1, keepdims=True)
    centred = x - mean
    rstd = 1 / np.sqrt((centred * centred).mean(-1, keepdims=True) + x.dtype.type(eps))
    y = centred * rstd
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y, mean[..., 0], rstd[..., 0]


def _check(x, weight, bias) -> None:
    for name, w in (("weight", weight), ("bias", bias)):
        if w is not None and w.shape != x.shape[-1:]:
            raise ValueError(f"layer_norm: {name} must have shape {x.shape[-1:]}, got {w.shape}")


def _compiled(threads, x, weight, bias, eps=1e-5):
    _check(x, weight, bias)
    n, (y, y_to) = x.shape[-1], _cffi.output(x.shape)
    mean, rstd = np.empty(x.shape[:-1], np.float32), np.empty(x.shape[:-1], np.float32)
    if n == 0:
        mean[...] = rstd[...] = np.nan  # of nothing
    elif x.size:
        _cffi.lib.ml_layer_norm(
            x.size // n, n, _cffi.source(x), _cffi.source(weight), _cffi.source(bias), eps,
            y_to, _cffi.target(mean), _cffi.target(rstd), threads(),
        )  # fmt: skip
    return y, mean, rstd


def vjp_specification(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray | None,
    mean: np.ndarray,
    rstd: np.ndarray,
    add: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """With x̂ = (x - mean) rstd and g = dy ⊙ weight:  dx = rstd (g - ⟨g⟩ - x̂ ⟨g x̂⟩) + add,

    dweight = Σ dy x̂, dbias = Σ dy over all rows.   dy, x, add: (…, N) → dx (…, N), (N,), (N,).
    """
    _check_vjp(dy, x, weight, mean, rstd, add)
    rstd = rstd[..., None]
    xhat = (x - mean[..., None]) * rstd
    g = dy if weight is None else dy * weight
    dx = rstd * (g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True))
    rows = tuple(range(x.ndim - 1))
    return dx if add is None else dx + add, (dy * xhat).sum(rows), dy.sum(rows)


def _check_vjp(dy, x, weight, mean, rstd, add) -> None:
    _check(x, weight, None)
    shapes = (dy.shape, mean.shape, rstd.shape)
    if shapes != (x.shape, x.shape[:-1], x.shape[:-1]):
        raise ValueError(f"layer_norm_vjp: x {x.shape} does not fit dy, mean and rstd {shapes}")
    if add is not None and add.shape != x.shape:
        raise ValueError(f"layer_norm_vjp: add must be {x.shape}, got {add.shape}")


def _compiled_vjp(threads, dy, x, weight, mean, rstd, add=None):
    _check_vjp(dy, x, weight, mean, rstd, add)
    n = x.shape[-1]
    rows = x.size // n if x.size else 0
    dx, dx_to = _cffi.output(x.shape)
    dweight, dbias = np.zeros((2, _cffi.lib.ml_layer_norm_chunks(rows), n), np.float32)
    _cffi.lib.ml_layer_norm_vjp(
        rows, n, _cffi.source(x), _cffi.source(weight), _cffi.source(mean), _cffi.source(rstd),
        _cffi.source(dy), _cffi.source(add), dx_to, _cffi.target(dweight), _cffi.target(dbias),
        threads(),
    )  # fmt: skip
    return dx, dweight[0], dbias[0]


layer_norm = Kernel(
    "layer_norm",
    specification,
    rungs(_compiled),
    flops=lambda x, *rest: 8 * x.size,
    bytes=lambda x, *rest: 2 * x.nbytes,
    floats=3,
)
layer_norm_vjp = Kernel(
    "layer_norm_vjp",
    vjp_specification,
    rungs(_compiled_vjp),
    flops=lambda dy, *rest: 14 * dy.size,
    bytes=lambda dy, x, weight, mean, rstd, add=None: (3 if add is None else 4) * dy.nbytes,
    floats=6,
)
