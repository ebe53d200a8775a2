"""gelu in both forms and its gradient against float64, and erf against the C library's."""

import math

import numpy as np
import pytest
from bounds import EXP, TINY, U, assert_within, same_bits, wide
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats, lengths, rows_of, same_shape, seeds

from minillm import kernels

C = 2 * math.sqrt(2 / math.pi)
FORMS = st.sampled_from(["none", "tanh"])
RANGES = ("normal", "integers", "far", "tiny", "subnormal")
OVERFLOW = 2.0**-127  # where exp(-v) overflows, Φ is taken as 0 and was less than this

erfc = np.vectorize(math.erfc, otypes=[np.float64])


def reference(x, form, numpy):
    """((y, slope), their bounds): y = x Φ, slope = Φ + x Φ'.

    none: Φ(-a) = exp(-a²/2) t P(t). Squaring a rounds the exponent by a²/2 U; exp EXP; t and P, a
    polynomial of degree 8 whose terms' sizes sum to at most 2.4 P, 60; for x > 0 it is 1 - that.
    NumPy's specification adds 1 + erf, which loses U wherever it cancels.
    tanh: Φ = 1 / (1 + exp(-v)) with seven roundings in v, and dΦ/Φ = (1 - Φ) dv.
    """
    (x,) = wide(x)
    a = np.abs(x)
    if form == "none":
        p, tail = erfc(-x / math.sqrt(2)) / 2, erfc(a / math.sqrt(2)) / 2
        bend = x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        error = tail * (a * a / 2 + 60) * U + (x > 0) * U + 4 * TINY + numpy * 4 * U
        bend_error = np.abs(bend) * (a * a / 2 + EXP + 6) * U + 4 * (1 + a) * TINY
    else:
        with np.errstate(over="ignore", under="ignore"):
            v = C * (x + 0.044715 * x**3)
            p, q = 1 / (1 + np.exp(-v)), 1 / (1 + np.exp(v))
        dv = x * C * (1 + 3 * 0.044715 * x * x)
        bend = dv * p * q
        error = p * (q * (8 * np.abs(v) + EXP) + 3) * U + OVERFLOW
        bend_error = np.abs(dv) * (error + 2 * p * U + 8 * p * q * U)
    slope_bound = error + bend_error + 4 * U * (p + np.abs(bend))
    return (x * p, p + bend), (a * (error + 2 * U * p) + TINY, slope_bound)


def assert_gelu(gelu, x, form):
    got, numpy = gelu(x, form), gelu.implementation == "numpy"
    for result, want, bound in zip(got, *reference(x, form, numpy), strict=True):
        assert_within(result, want, bound)


@given(rows_of().flatmap(lambda shape: floats(shape, RANGES)), FORMS)
def test_gelu_matches_float64(gelu, x, form):
    assert_gelu(gelu, x, form)


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu_sweep_of_the_tails(gelu, form):
    """Every magnitude down to where Φ vanishes; the left tail is where a formula cancels."""
    assert_gelu(gelu, np.linspace(-16, 16, 20001, dtype=np.float32), form)
    assert_gelu(gelu, np.linspace(-200, 200, 2001, dtype=np.float32), form)


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu_far_out_is_zero_or_the_identity(gelu, form):
    x = np.array([-1e15, 1e15, -1e6, 1e6, -0.0, 0], np.float32)
    y, slope = gelu(x, form)
    np.testing.assert_array_equal(y, [0, x[1], 0, 1e6, 0, 0])
    np.testing.assert_array_equal(np.signbit(y), np.signbit(x))
    np.testing.assert_array_equal(slope, [0, 1, 0, 1, 0.5, 0.5])


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu_nan_spoils_itself_only(gelu, form):
    x = np.random.default_rng(0).standard_normal(37).astype(np.float32)
    clean = gelu(x, form)
    x[33] = np.nan
    for before, after in zip(clean, gelu(x, form), strict=True):
        before[33] = np.nan
        np.testing.assert_array_equal(after, before)


@given(seeds, lengths.filter(bool), FORMS)
def test_gelu_element_does_not_depend_on_its_neighbours(gelu, seed, n, form):
    x = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    i = seed % n
    for whole, alone in zip(gelu(x, form), gelu(x[i : i + 1], form), strict=True):
        assert same_bits(whole[i : i + 1], alone)


def test_gelu_names_the_forms_there_are(gelu):
    with pytest.raises(ValueError, match="tanh"):
        gelu(np.ones(3, np.float32), "quick")


@given(same_shape(2))
def test_gelu_vjp_is_one_product(gelu_vjp, pair):
    slope, dy = pair
    dx = gelu_vjp(slope, dy)
    assert dx.dtype == np.float32
    np.testing.assert_array_equal(dx, slope.astype(np.float32) * dy.astype(np.float32))


def test_erf_matches_the_c_library():
    x = np.concatenate([np.linspace(-7, 7, 5001), [0.0, -0.0, np.inf, -np.inf, 1e300, 5e-324]])
    want = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(kernels.erf(x), want, rtol=1e-15, atol=1e-15)
    np.testing.assert_array_equal(np.signbit(kernels.erf(x)), np.signbit(x))
    assert np.isnan(kernels.erf(np.array([np.nan]))[0])
    assert kernels.erf(x[:9].astype(np.float32)).dtype == np.float32
