"""exp and tanh of csrc/simd.h within 2 ULP: each 997th float32 and the edges; each if intense."""

import numpy as np
import pytest
from hypothesis import settings

from minillm.kernels import _cffi

EXP, TANH = 0, 1
STEP = 1 if settings.get_current_profile_name() == "intense" else 997
CHUNK = 1 << 22


def evaluate(function: int, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    _cffi.lib.ml_map(x.size, function, _cffi.source(x), _cffi.target(y))
    return y


def edges() -> np.ndarray:
    """Where a formula changes, overflows or underflows, with 50 neighbours each, of both signs."""
    centres = [0, 2**-149, 2**-126, 1, 0.625, 88.722839, 89, 87.336548, 103.27893, 103.97208, 104]
    centres += [np.log(2) * (n + 0.5) for n in range(-2, 3)] + [44.5, 9.01, 3.4028234e38, np.inf]
    bits = np.abs(np.array(centres, np.float32)).view(np.int32)[:, None] + np.arange(-50, 51)
    x = np.maximum(bits, 0).astype(np.int32).view(np.float32).ravel()
    return np.concatenate([x, -x])


def sweep():
    yield edges()
    for start in range(0, 2**32, STEP * CHUNK):
        bits = np.arange(start, min(start + STEP * CHUNK, 2**32), STEP, dtype=np.int64)
        yield bits.astype(np.uint32).view(np.float32)


def ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """The distance in units of the last place of `want`; past the largest float stands 2^128."""
    got, want = np.minimum(got.astype(np.float64), 2.0**128), np.minimum(want, 2.0**128)
    exponent = np.clip(np.frexp(want)[1] - 24, -149, 104)
    return np.abs(got - want) / np.ldexp(1.0, exponent)


@pytest.mark.parametrize(("function", "exact"), [(EXP, np.exp), (TANH, np.tanh)])
def test_elementary_within_two_ulp(target, function, exact):
    for x in sweep():
        got = evaluate(function, x)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            want = exact(x.astype(np.float64))
        number = ~np.isnan(x)
        np.testing.assert_array_equal(np.isnan(got), ~number)
        error = ulps(got[number], want[number])
        worst = np.argmax(error)
        assert error[worst] <= 2, f"{error[worst]:.2f} ULP at {float(x[number][worst]).hex()}"


def test_elementary_exp_at_its_ends(target):
    x = np.array([0, -0.0, np.inf, -np.inf, 3e38, -3e38, -104], np.float32)
    np.testing.assert_array_equal(evaluate(EXP, x), np.float32([1, 1, np.inf, 0, np.inf, 0, 0]))


def test_elementary_tanh_is_odd_and_at_most_one(target):
    x = edges()
    x = x[~np.isnan(x)]
    y = evaluate(TANH, x)
    np.testing.assert_array_equal(evaluate(TANH, -x), -y)
    assert np.abs(y).max() == 1
