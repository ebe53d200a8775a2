"""AdamW, and the sum of squares and the scaling behind clipping, over lists of arrays.

One call takes all parameters: 27 calls a step would cost more Python than arithmetic.
C side: csrc/optimizer.c   Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
"""

from collections.abc import Sequence

import numpy as np

from minillm.kernels import _cffi
from minillm.kernels.kernel import Kernel, rungs

Arrays = Sequence[np.ndarray]  # a list or a tuple; they may not overlap


def adamw_specification(
    params: Arrays,
    grads: Arrays,
    ms: Arrays,
    vs: Arrays,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    decays: Sequence[float],
    step: int,
) -> None:
    """m ← β₁ m + (1-β₁) g,  v ← β₂ v + (1-β₂) g²,  m̂ = m / (1-β₁^step),  v̂ = v / (1-β₂^step),
    p ← p (1 - lr·decay) - lr m̂ / (√v̂ + eps)   for each p, g, m, v (of one shape) and decay.

    p, m and v are updated in place.
    """
    _check(params, grads, ms, vs, decays)
    for p, g, m, v, decay in zip(params, grads, ms, vs, decays, strict=True):
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g * g - v)
        p *= 1 - lr * decay
        p -= (lr / (1 - beta1**step)) * m / (np.sqrt(v / (1 - beta2**step)) + eps)


def _check(params, grads, ms, vs, decays) -> None:
    if not len(params) == len(grads) == len(ms) == len(vs) == len(decays):
        counts = [len(each) for each in (params, grads, ms, vs, decays)]
        raise ValueError(f"adamw: expected as many of each, got {counts}")
    for p, g, m, v in zip(params, grads, ms, vs, strict=True):
        if not p.shape == g.shape == m.shape == v.shape:
            shapes = [a.shape for a in (p, g, m, v)]
            raise ValueError(f"adamw: p, g, m and v must agree, got {shapes}")


def _adamw(threads, params, grads, ms, vs, lr, beta1, beta2, eps, decays, step):
    _check(params, grads, ms, vs, decays)
    together = []
    for p, g, m, v, decay in zip(params, grads, ms, vs, decays, strict=True):
        if p.flags.fnc:  # Fortran order: the transposes stand in C order
            p, g, m, v = p.T, g.T, m.T, v.T
        if p.flags.carray and m.flags.carray and v.flags.carray:
            together.append((p, g, m, v, decay))
        else:
            adamw_specification([p], [g], [m], [v], lr, beta1, beta2, eps, [decay], step)
    if together:
        params, grads, ms, vs, decays = zip(*together, strict=True)
        _cffi.lib.ml_adamw(
            len(params), _sizes(params), _cffi.targets_of(params), _cffi.sources_of(grads),
            _cffi.targets_of(ms), _cffi.targets_of(vs), decays,
            lr, beta1, beta2, eps, 1 - beta1**step, 1 - beta2**step, threads(),
        )  # fmt: skip


def _sizes(arrays: Arrays) -> list[int]:
    return [a.size for a in arrays]


def sum_squares_specification(arrays: Arrays) -> float:
    """Σ x² over all elements of all arrays, summed in float64."""
    total = 0.0
    for x in arrays:
        x = x.reshape(-1).astype(np.float64, copy=False)
        total += float(x @ x)
    return total


def _sum_squares(threads, arrays):
    return _cffi.lib.ml_sum_squares(
        len(arrays), _sizes(arrays), _cffi.sources_of(arrays), threads()
    )


def scale_specification(arrays: Arrays, factor: float) -> None:
    """x ← factor x for each array, in place."""
    for x in arrays:
        x *= factor


def _scale(threads, arrays, factor):
    turned = [x.T if x.flags.fnc else x for x in arrays]
    together = [x for x in turned if x.flags.carray]
    scale_specification([x for x in turned if not x.flags.carray], factor)
    _cffi.lib.ml_scale(
        len(together), _sizes(together), _cffi.targets_of(together), factor, threads()
    )


def _count(arrays: Arrays) -> int:
    return sum(a.size for a in arrays)


def _bytes(arrays: Arrays) -> int:
    return sum(a.nbytes for a in arrays)


adamw = Kernel(
    "adamw",
    adamw_specification,
    rungs(_adamw),
    flops=lambda params, *rest: 14 * _count(params),
    bytes=lambda params, *rest: 7 * _bytes(params),
    floats=4,
    lists=True,
)
sum_squares = Kernel(
    "sum_squares",
    sum_squares_specification,
    rungs(_sum_squares),
    flops=lambda arrays: 2 * _count(arrays),
    bytes=_bytes,
    lists=True,
)
scale_all = Kernel(
    "scale_all",
    scale_specification,
    rungs(_scale),
    flops=lambda arrays, factor: _count(arrays),
    bytes=lambda arrays, factor: 2 * _bytes(arrays),
    lists=True,
)
