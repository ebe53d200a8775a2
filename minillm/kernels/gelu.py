"""Gaussian error linear unit, exact or by tanh, forward and backward.   C side: csrc/gelu.c

Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
"""

from functools import lru_cache
from math import erf as scalar_erf
from math import pi, sqrt

import numpy as np

from minillm.kernels import _cffi
from minillm.kernels.kernel import Kernel, rungs


@lru_cache(maxsize=1)
def _erf_table() -> tuple[int, np.ndarray, np.ndarray]:
    per_unit = 64
    x = np.arange(6 * per_unit + 1) / per_unit
    return per_unit, x, np.array([scalar_erf(v) for v in x])


def erf(x: np.ndarray) -> np.ndarray:
    """erf(x) = 2/√π ∫₀ˣ exp(-t²) dt, element by element (NumPy has none), within 1e-15.

    A Taylor series about the nearest of 385 grid points: with f' = 2/√π exp(-x²), each further
    derivative is f' times a Hermite polynomial; 1/64 apart, eight terms reach float64's precision.
    """
    per_unit, grid, values = _erf_table()
    a = np.minimum(np.abs(np.asarray(x, np.float64)), grid[-1])  # erf(6) is 1 to the last bit
    with np.errstate(invalid="ignore"):
        nearest = np.nan_to_num(np.rint(a * per_unit)).astype(np.intp)
    x0 = grid[nearest]
    d = a - x0
    h0, h1, power, series = np.ones_like(d), -2 * x0, d, d.copy()
    for n in range(2, 9):  # f⁽ⁿ⁾ = f' h_{n-1},  h_{n} = -2 x h_{n-1} - 2 (n-1) h_{n-2}
        power = power * d / n
        series += h1 * power
        h0, h1 = h1, -2 * x0 * h1 - 2 * (n - 1) * h0
    result = values[nearest] + 2 / sqrt(pi) * np.exp(-x0 * x0) * series
    return np.copysign(result, x).astype(x.dtype.newbyteorder("="), copy=False)


def specification(x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray, np.ndarray]:
    """y = x Φ(x) and its slope dy/dx = Φ(x) + x Φ'(x), which is all that backward needs.

    Φ(x) = (1 + erf(x/√2)) / 2, Φ'(x) = exp(-x²/2) / √(2π); approximate="tanh":
    Φ(x) ≈ 1 / (1 + e⁻²ᵘ), u = √(2/π) (x + 0.044715 x³).   x: any shape → y, slope.
    """
    check_approximate(approximate)
    number = x.dtype.type
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if approximate == "none":
            cdf = (1 + erf(x / number(sqrt(2)))) / 2
            density = np.exp(-x * x / 2) * number(1 / sqrt(2 * pi))
        else:
            cubic = number(0.044715) * x * x
            c = number(2 * sqrt(2 / pi))
            cdf = 1 / (1 + np.exp(-c * x * (1 + cubic)))
            density = cdf * (1 - cdf) * c * (1 + 3 * cubic)
        return x * cdf, cdf + x * density


def vjp_specification(slope: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dx = dy ⊙ slope, the slope from forward.   slope, dy: one shape."""
    _check_vjp(slope, dy)
    return dy * slope


def check_approximate(approximate: str) -> None:
    if approximate not in ("none", "tanh"):
        raise ValueError(f'gelu: approximate must be "none" or "tanh", got {approximate!r}')


def _check_vjp(slope, dy) -> None:
    if slope.shape != dy.shape:
        raise ValueError(f"gelu_vjp: slope {slope.shape} and dy {dy.shape} must agree")


def _compiled(threads, x, approximate="none"):
    check_approximate(approximate)
    (y, y_to), (slope, slope_to) = _cffi.output(x.shape), _cffi.output(x.shape)
    _cffi.lib.ml_gelu(x.size, _cffi.source(x), y_to, slope_to, approximate == "tanh", threads())
    return y, slope


def _compiled_vjp(threads, slope, dy):
    _check_vjp(slope, dy)
    dx, dx_to = _cffi.output(slope.shape)
    _cffi.lib.ml_gelu_vjp(dx.size, _cffi.source(slope), _cffi.source(dy), dx_to, threads())
    return dx


gelu = Kernel(
    "gelu",
    specification,
    rungs(_compiled),
    flops=lambda x, *rest: 45 * x.size,
    bytes=lambda x, *rest: 3 * x.nbytes,
)
gelu_vjp = Kernel(
    "gelu_vjp",
    vjp_specification,
    rungs(_compiled_vjp),
    flops=lambda slope, dy: slope.size,
    bytes=lambda slope, dy: 3 * slope.nbytes,
    floats=2,
)
