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


def _cdf_and_slope(x: np.ndarray, approximate: str) -> tuple[np.ndarray, np.ndarray]:
    """(Φ(x), x Φ'(x)) of the form named."""
    one = x.dtype.type(1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if approximate == "none":
            cdf = (one + erf(x / x.dtype.type(sqrt(2)))) / 2
            slope = x * np.exp(-x * x / 2) * x.dtype.type(1 / sqrt(2 * pi))
        else:
            c = x.dtype.type(2 * sqrt(2 / pi))
            cdf = one / (one + np.exp(-c * (x + x.dtype.type(0.044715) * x * x * x)))
            slope = x * cdf * (one - cdf) * c * (one + x.dtype.type(3 * 0.044715) * x * x)
    return cdf, np.where(np.isinf(x), 0, slope)


def specification(x: np.ndarray, approximate: str = "none") -> np.ndarray:
    """y = x Φ(x), Φ(x) = (1 + erf(x/√2)) / 2; "tanh": Φ(x) ≈ (1 + tanh(√(2/π)(x + 0.044715 x³))) / 2."""
    cdf, _ = _cdf_and_slope(x, approximate)
    return np.where(np.isneginf(x), x.dtype.type(-0.0), np.where(np.isneginf(x), 0, x) * cdf)


def vjp_specification(x: np.ndarray, dy: np.ndarray, approximate: str = "none") -> np.ndarray:
    """dx = dy (Φ(x) + x Φ'(x)).   x, dy: any one shape."""
    cdf, slope = _cdf_and_slope(x, approximate)
    return dy * (cdf + slope)


def _compiled(threads, x, approximate="none"):
    y = np.empty(x.shape, np.float32)
    _cffi.lib.ml_gelu(x.size, _cffi.source(x), _cffi.target(y), approximate == "tanh", threads())
    return y


def _compiled_vjp(threads, x, dy, approximate="none"):
    dx = np.empty(x.shape, np.float32)
    _cffi.lib.ml_gelu_vjp(
        x.size, _cffi.source(x), _cffi.source(dy), _cffi.target(dx), approximate == "tanh", threads()
    )
    return dx


gelu = Kernel(
    "gelu",
    specification,
    rungs(_compiled),
    flops=lambda x, *rest: 45 * x.size,
    bytes=lambda x, *rest: 2 * x.nbytes,
)
gelu_vjp = Kernel(
    "gelu_vjp",
    vjp_specification,
    rungs(_compiled_vjp),
    flops=lambda x, *rest: 50 * x.size,
    bytes=lambda x, *rest: 3 * x.nbytes,
    floats=2,
)
