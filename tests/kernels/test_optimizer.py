"""adamw and sum_squares against float64."""

import numpy as np
import pytest
from bounds import TINY, U, assert_within, gamma, wide
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats, lengths, rows_of, seeds

from minillm import kernels

TAME = ("normal", "integers", "far")
sizes = st.sampled_from([0, 1, 3, 4, 5, 15, 16, 17, 33, 8191, 8192, 8193])


def state(seed: int, shape) -> tuple[np.ndarray, ...]:
    """p, g, m, v as float32; v is not negative."""
    rng = np.random.default_rng(seed)
    p, g, m, v = rng.standard_normal((4, *np.atleast_1d(shape))).astype(np.float32)
    return p, g, m, v * v


@given(
    seeds,
    sizes,
    st.sampled_from([(0.9, 0.999), (0.9, 0.95), (0.0, 0.99)]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([1, 2, 1000]),
)
def test_adamw_matches_float64(adamw, seed, n, betas, decay, step):
    """m and v: each factor and each of two products is rounded, then the sum.

    The step inherits half of v's error and all of m's, and takes eight roundings of its own;
    p adds its own and the decay's.
    """
    (p, g, m, v), (beta1, beta2), lr, eps = state(seed, n), betas, 1e-2, 1e-8
    p64, g64, m64, v64 = wide(p, g, m, v)
    e_m = (
        gamma(4) * (np.abs(beta1 * m64) + np.abs((1 - beta1) * (np.abs(g64) + np.abs(m64)))) + TINY
    )
    e_v = gamma(5) * (v64 + (1 - beta2) * g64 * g64) + TINY
    adamw(p, g, m, v, lr, beta1, beta2, eps, decay, step)
    before = np.abs(p64)
    kernels.adamw.specification(p64, g64, m64, v64, lr, beta1, beta2, eps, decay, step)
    assert_within(m, m64, e_m)
    assert_within(v, v64, e_v)
    rate = lr / (1 - beta1**step)
    root = np.sqrt(v64 / (1 - beta2**step)) + eps
    moved = rate * np.abs(m64) / root
    e_p = (
        3 * U * before + moved * (e_v / (2 * np.maximum(v64, TINY)) + gamma(9)) + rate * e_m / root
    )
    assert_within(p, p64, e_p + U * (before + moved))


def test_adamw_takes_any_layout_of_the_gradient(adamw):
    p, g, m, v = state(0, (7, 19))
    want = [a.copy() for a in (p, m, v)]
    settings = (1e-2, 0.9, 0.999, 1e-8, 0.1, 3)
    adamw(want[0], g, want[1], want[2], *settings)
    adamw(p, np.asfortranarray(g), m, v, *settings)
    for got, expected in zip((p, m, v), want, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_adamw_updates_in_place_or_refuses(adamw):
    """A parameter that the kernel cannot write through is an error, and nothing has changed."""
    p, g, m, v = (a[:, ::2] for a in state(0, (7, 38)))
    before, want = p.copy(), [a.astype(np.float64) for a in (p, g, m, v)]
    settings = (1e-2, 0.9, 0.999, 1e-8, 0.1, 3)
    if adamw.implementation == "numpy":
        adamw(p, g, m, v, *settings)
        kernels.adamw.specification(*want, *settings)
        np.testing.assert_allclose(p, want[0], rtol=1e-5, atol=1e-6)
    else:
        with pytest.raises(TypeError, match="contiguous"):
            adamw(p, g, m, v, *settings)
        np.testing.assert_array_equal(p, before)


def test_adamw_of_zero_gradient_stays_put(adamw):
    p, g, m, v = state(0, 37)
    g[:], m[:], v[:] = 0, 0, 0
    before = p.copy()
    adamw(p, g, m, v, 1e-2, 0.9, 0.999, 1e-8, 0.0, 1)
    np.testing.assert_array_equal(p, before)


def test_adamw_nan_spoils_its_element_only(adamw):
    p, g, m, v = state(0, 37)
    g[33] = np.nan
    adamw(p, g, m, v, 1e-2, 0.9, 0.999, 1e-8, 0.0, 1)
    for a in (p, m, v):
        assert np.flatnonzero(np.isnan(a)).tolist() == [33]


@given(rows_of(lengths | sizes).flatmap(lambda shape: floats(shape, (*TAME, "mixed"))))
def test_sum_squares_matches_float64(sum_squares, x):
    """Squares and their sums within a chunk of 8,192 in float32, the chunks in float64."""
    got, x = sum_squares(x), x.astype(np.float64)
    assert isinstance(got, float)
    want = float((x * x).sum())
    assert abs(got - want) <= gamma(min(x.size, 8192)) * want + x.size * TINY


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_sum_squares_shows_a_special_value(sum_squares, bad):
    x = np.ones(20000, np.float32)
    x[19999] = bad
    assert not np.isfinite(sum_squares(x))


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_sum_squares_does_not_over_or_underflow(sum_squares, size):
    """A squared float32 always fits float64: the norm of a huge gradient is a number."""
    x = np.full(20, size, np.float32)
    np.testing.assert_allclose(sum_squares(x), 20 * float(np.float32(size)) ** 2, rtol=1e-5)
