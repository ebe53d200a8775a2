"""Rounding-error bounds for float32, after Higham 2002, "Accuracy and Stability", chapters 2, 3."""

import numpy as np

U = 2.0**-24  # the unit roundoff: fl(a ∘ b) = (a ∘ b)(1 + δ), |δ| ≤ U
TINY = 2.0**-149  # the smallest subnormal: what an underflow may lose, besides
EXP, LOG = (
    6,
    8,
)  # of exp and log, in U: ours 2 ULP = 4 U; NumPy's and the C library's below 3 and 4 ULP
EXP_RANGE = 110.0  # e^-110 is nothing in float32, so no exponent's rounding error exceeds 110 U


def gamma(k):
    """γ_k = k U / (1 - k U): what k roundings in a row can do."""
    return k * U / (1 - k * U)


def wide(*arrays):
    """The same numbers in float64."""
    return tuple(None if a is None else a.astype(np.float64) for a in arrays)


def assert_within(got: np.ndarray, want: np.ndarray, bound: np.ndarray | float) -> None:
    """|got - want| ≤ bound everywhere (a NaN fails), float32 and in the right shape."""
    assert got.dtype == np.float32
    assert got.shape == want.shape
    error = np.abs(got.astype(np.float64) - want)
    bad = ~(error <= bound)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        limit = float(np.broadcast_to(bound, want.shape)[at])
        text = f"{bad.sum()} of {bad.size} wrong; at {at} got {got[at]}, want {want[at]}"
        raise AssertionError(f"{text}, error {error[at]:.3g} > {limit:.3g}")


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
