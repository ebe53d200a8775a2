"""softmax and its gradient against float64; the causal mask; special values."""

import numpy as np
import pytest
from bounds import EXP, EXP_RANGE, TINY, U, assert_within, gamma, same_bits, wide
from hypothesis import given
from hypothesis import strategies as st
from strategies import LAYOUTS, floats, lengths, rows_of, same_shape, seeds, small, special

from minillm import kernels

needs_c = pytest.mark.skipif(not kernels.info()["compiled"], reason="the kernels are not compiled")
SPECIAL_ROWS = {
    "all -inf": [-np.inf] * 19,
    "one inf": [1.0] * 18 + [np.inf],
    "one nan": [1.0] * 9 + [np.nan] + [2.0] * 9,
    "nan and inf": [np.nan, np.inf] + [0.0] * 17,
}


def seen(T, S):
    """Row t of (T, S) scores sees its first t + 1 + S - T entries."""
    return np.tri(T, S, S - T, dtype=bool)


def reference(x, mask=True):
    """(softmax in float64 where mask, its bound).

    y_j = e_j / s. Rounding x_j - m costs |x_j - m| U in the exponent, exp EXP, the sum n (and the
    mean of its terms' own errors), the division 2 with a reciprocal. A result below the normal
    range is rounded once more in exp, once in the division.
    """
    (x,) = wide(x)
    x = np.where(mask, x, -np.inf)
    distance = x.max(-1, keepdims=True) - x
    e = np.exp(-distance)
    y = e / e.sum(-1, keepdims=True)
    distance = np.minimum(distance, EXP_RANGE)
    roundings = distance + (y * distance).sum(-1, keepdims=True) + x.shape[-1] + 2 * EXP + 2
    return y, gamma(roundings) * y + 4 * TINY


@given(rows_of(lengths.filter(bool)).flatmap(floats))
def test_softmax_matches_float64(softmax, x):
    y = softmax(x)
    if x.size:
        assert_within(y, *reference(x))
    assert y.shape == x.shape


@given(rows_of(lengths.filter(bool)).flatmap(floats))
def test_softmax_rows_sum_to_one(softmax, x):
    y = softmax(x).astype(np.float64)
    assert (y >= 0).all()
    np.testing.assert_allclose(y.sum(-1), 1, rtol=0, atol=2 * x.shape[-1] * U + 1e-6)


@given(st.tuples(st.sampled_from([1, 2, 3]), small, lengths).flatmap(floats))
def test_softmax_causal_matches_float64(softmax, x):
    T, S = x.shape[-2:]
    y = softmax(x, causal=True)
    assert y.shape == x.shape
    blind = max(T - S, 0)
    assert not y[:, :blind].any()
    assert not y[..., ~seen(T, S)].any()
    if x[:, blind:].size:
        assert_within(y[:, blind:], *reference(x[:, blind:], seen(T, S)[blind:]))


@given(seeds, st.sampled_from([(4, 9), (9, 4), (17, 17), (1, 5)]))
def test_softmax_causal_ignores_what_is_masked(softmax, seed, shape):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, *shape)).astype(np.float32)
    hidden = np.where(seen(*shape), x, special(rng, x.shape))
    assert same_bits(softmax(x, causal=True), softmax(hidden, causal=True))


@pytest.mark.parametrize("row", SPECIAL_ROWS)
def test_softmax_special_row_is_nan_and_spoils_no_other(softmax, row):
    x = np.random.default_rng(0).standard_normal((3, 19)).astype(np.float32)
    clean = softmax(x)
    x[1] = SPECIAL_ROWS[row]
    y = softmax(x)
    assert np.isnan(y[1]).all()
    assert same_bits(y[::2], clean[::2])


@pytest.mark.parametrize("row", SPECIAL_ROWS)
def test_softmax_special_causal_row_is_nan_where_it_sees(softmax, row):
    x = np.tile(np.array(SPECIAL_ROWS[row], np.float32), (19, 1))
    y = softmax(x, causal=True)
    assert np.isnan(y[-1]).all()
    assert not y[~seen(19, 19)].any()  # 0, and not NaN, where nothing is seen


def test_softmax_of_some_minus_infinities_is_zero_there(softmax):
    x = np.array([[-np.inf, 1, 1, -np.inf, 1, 1]], np.float32)
    np.testing.assert_array_equal(softmax(x), np.float32([[0, 0.25, 0.25, 0, 0.25, 0.25]]))


def test_softmax_keeps_subnormal_tails(softmax):
    x = np.array([[0.0] + [-float(t) for t in range(88, 104)]], np.float32)
    y = softmax(x)
    assert_within(y, *reference(x))
    assert (y[0, 1:15] > 0).all()
    assert (y[0, 3:15] < 2.0**-126).all()


def test_softmax_of_huge_scores_does_not_overflow(softmax):
    x = np.array([[3e38, -3e38, 3e38]], np.float32)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(softmax(x), np.float32([[0.5, 0, 0.5]]))


@pytest.mark.parametrize("offset", [0, 1, 15])
def test_softmax_of_every_short_row(softmax, offset):
    """Each number of vectors and each rest, wherever memory begins; nothing around is written."""
    rng = np.random.default_rng(0)
    for n in range(1, 131):
        memory, out = rng.standard_normal((2, 5 * n + 40)).astype(np.float32)
        x, y = (a[offset : offset + 5 * n].reshape(5, n) for a in (memory, out))
        before = out.copy()
        softmax(x, out=y)
        assert_within(y, *reference(x))
        before[offset : offset + 5 * n] = y.ravel()
        assert same_bits(out, before)


@needs_c
@pytest.mark.parametrize("in_place", [False, True])
def test_softmax_of_a_large_result_has_the_bits_of_its_parts(target, in_place):
    """From 2²³ elements on it is stored past the caches; 257-element rows begin at any boundary."""
    kernels.set_num_threads(3)
    shape = (2**23 // 257 + 5, 257)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    memory = np.full(x.size + 32, 7, np.float32)
    y = memory[1 : 1 + x.size].reshape(shape)
    y[:] = x if in_place else np.nan
    kernels.softmax(y if in_place else x, out=y)
    starts = range(0, len(x), 997)
    assert all(same_bits(y[i : i + 997], kernels.softmax(x[i : i + 997])) for i in starts)
    assert memory[0] == 7
    assert (memory[1 + x.size :] == 7).all()


LONG, BLOCK = 2**17, 4096  # a longer row takes the online form, block by block


def long_rows(n):
    """Normal; rising, each block corrects the sum; falling; what counts at the edges of the blocks
    and at the end; blocks of -inf before the first number."""
    at, rng = np.arange(n), np.random.default_rng(n)
    edges = np.isin(at % BLOCK, (0, BLOCK - 1)) | (at >= n - 3)
    ramp = np.linspace(-300, 0, n)
    late = np.where(at < n - 3, -np.inf, 1)
    return np.float32([rng.standard_normal(n), ramp, ramp[::-1], np.where(edges, 0, -90), late])


@pytest.mark.parametrize("n", [LONG, LONG + 1, LONG + BLOCK + 3])
def test_softmax_of_long_rows_matches_float64(softmax, n):
    want, bound = reference(long_rows(n))
    x = np.zeros(5 * n + 1, np.float32)[1:].reshape(5, n)
    x[:] = long_rows(n)
    y = softmax(x)
    assert_within(y, want, bound)
    assert softmax(x, out=x) is x
    assert same_bits(x, y)


@pytest.mark.parametrize("at", [0, BLOCK, LONG])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_softmax_of_a_special_long_row_is_nan(softmax, at, value):
    x = np.zeros((3, LONG + 1), np.float32)
    x[1, at], x[2] = value, -np.inf
    y = softmax(x)
    assert np.isnan(y[1:]).all()
    np.testing.assert_allclose(y[0], 1 / (LONG + 1), rtol=1e-5)


@given(seeds, lengths.filter(bool), st.booleans())
def test_softmax_row_does_not_depend_on_its_neighbours(softmax, seed, n, specials):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 9)), n)
    x = special(rng, shape) if specials else rng.standard_normal(shape).astype(np.float32)
    with np.errstate(all="ignore"):
        y, i = softmax(x), seed % len(x)
        alone = softmax(x[i : i + 1])
    np.testing.assert_array_equal(y[i : i + 1], alone)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_softmax_writes_over_its_input(softmax, layout, causal):
    x = LAYOUTS[layout](np.random.default_rng(0).standard_normal((2, 7, 19)).astype(np.float32))
    want = softmax(x, causal=causal)
    if not x.flags.writeable:
        with pytest.raises(ValueError, match="read-only"):
            softmax(x, out=x, causal=causal)
        return
    assert softmax(x, out=x, causal=causal) is x
    np.testing.assert_array_equal(x, want)


@pytest.mark.parametrize("layout", ["C", "fortran", "padded", "stepped", "reversed", "misaligned"])
def test_softmax_never_reads_out(softmax, layout):
    x = np.random.default_rng(0).standard_normal((7, 19)).astype(np.float32)
    out = LAYOUTS[layout](np.full(x.shape, np.nan, np.float32))
    assert softmax(x, out=out) is out
    np.testing.assert_array_equal(out, softmax(x))


@pytest.mark.parametrize("shift", [1, 19, -1, -19])
def test_softmax_out_may_partly_overlap(softmax, shift):
    memory = np.random.default_rng(0).standard_normal(400).astype(np.float32)
    x, out = memory[40:135].reshape(5, 19), memory[40 + shift : 135 + shift].reshape(5, 19)
    want = softmax(x.copy())
    np.testing.assert_array_equal(softmax(x, out=out), want)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5), (2, 0, 4)])
def test_softmax_of_zero_size_is_empty(softmax, shape):
    x = np.empty(shape, np.float32)
    assert softmax(x).shape == shape
    if len(shape) > 1:
        assert softmax(x, causal=True).shape == shape


def test_softmax_names_shapes_that_do_not_fit(softmax):
    x = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        softmax(x, out=np.empty((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"2 axes.*\(3,\)"):
        softmax(x[0], causal=True)
    with pytest.raises(ValueError, match="1 axes"):
        softmax(np.ones((), np.float32))


@given(same_shape(2, lengths.filter(bool)))
def test_softmax_vjp_matches_float64(softmax_vjp, pair):
    """dx_j = y_j (dy_j - d), d = Σ dy y: d is within γ_n Σ|dy y|, two more roundings follow."""
    y, dy = pair
    got = softmax_vjp(y, dy)
    y, dy = wide(y, dy)
    dot, size = (dy * y).sum(-1, keepdims=True), np.abs(dy * y).sum(-1, keepdims=True)
    n = y.shape[-1]
    bound = gamma(n + 3) * np.abs(y) * (np.abs(dy) + size) + (1 + n * np.abs(y)) * TINY
    assert_within(got, y * (dy - dot), bound)


def test_softmax_vjp_nan_spoils_its_row_only(softmax_vjp):
    y, dy = np.random.default_rng(0).standard_normal((2, 5, 19)).astype(np.float32)
    clean = softmax_vjp(y, dy)
    dy[3, 18] = np.nan
    dx = softmax_vjp(y, dy)
    assert np.isnan(dx[3]).all()
    assert same_bits(np.delete(dx, 3, 0), np.delete(clean, 3, 0))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
def test_softmax_vjp_of_zero_size_is_empty(softmax_vjp, shape):
    assert softmax_vjp(np.empty(shape, np.float32), np.empty(shape, np.float32)).shape == shape


def test_softmax_vjp_names_shapes_that_do_not_fit(softmax_vjp):
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        softmax_vjp(np.ones((2, 3), np.float32), np.ones((3, 2), np.float32))
