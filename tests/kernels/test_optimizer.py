"""adamw, sum_squares and scale_all against float64."""

import numpy as np
import pytest
from bounds import TINY, U, assert_within, gamma, same_bits, wide
from hypothesis import given
from hypothesis import strategies as st
from strategies import LAYOUTS, floats, lengths, rows_of, seeds

from minillm import kernels

SETTINGS = (1e-2, 0.9, 0.999, 1e-8)  # lr, beta1, beta2, eps
TAME = ("normal", "integers", "far")
sizes = st.sampled_from([0, 1, 3, 4, 5, 15, 16, 17, 33, 8191, 8192, 8193])


def state(seed: int, shape) -> tuple[np.ndarray, ...]:
    """p, g, m, v as float32; v is not negative."""
    rng = np.random.default_rng(seed)
    p, g, m, v = (np.asarray(rng.standard_normal(shape), np.float32) for _ in range(4))
    return p, g, m, np.square(v, out=v)


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
    adamw([p], [g], [m], [v], lr, beta1, beta2, eps, [decay], step)
    before = np.abs(p64)
    kernels.adamw.specification([p64], [g64], [m64], [v64], lr, beta1, beta2, eps, [decay], step)
    assert_within(m, m64, e_m)
    assert_within(v, v64, e_v)
    rate = lr / (1 - beta1**step)
    root = np.sqrt(v64 / (1 - beta2**step)) + eps
    moved = rate * np.abs(m64) / root
    e_p = (
        3 * U * before + moved * (e_v / (2 * np.maximum(v64, TINY)) + gamma(9)) + rate * e_m / root
    )
    assert_within(p, p64, e_p + U * (before + moved))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", range(4))
def test_adamw_takes_any_layout(adamw, which, layout):
    """One of p, g, m and v, or all of them, beside another tensor that stands as it should."""
    arrays, beside = state(0, (7, 19)), state(1, (9000,))
    for laid in ({which}, {0, 1, 2, 3}):
        mine = [LAYOUTS[layout](a.copy()) if i in laid else a.copy() for i, a in enumerate(arrays)]
        want = [mine[i].copy() for i in range(4)]
        other, other_want = ([a.copy() for a in beside] for _ in range(2))
        if any(not mine[i].flags.writeable for i in (0, 2, 3)):
            with pytest.raises(ValueError, match="read-only"):
                adamw(*zip(mine, other, strict=True), *SETTINGS, [0.1, 0.0], 3)
            continue
        if layout.startswith("one ") and laid != {1}:
            continue  # its elements share memory
        adamw(*zip(mine, other, strict=True), *SETTINGS, [0.1, 0.0], 3)
        for a, decay in ((want, 0.1), (other_want, 0.0)):
            kernels.adamw.specification(*([x] for x in a), *SETTINGS, [decay], 3)
        for got, expected in zip(mine + other, want + other_want, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_adamw_of_several_is_adamw_of_each(adamw):
    """The bits of a tensor do not depend on what is beside it, nor on its place in the list."""
    shapes = [(3,), (8192,), (2, 8193), (), (0, 3), (17, 1000)]
    states = [state(i, shape) for i, shape in enumerate(shapes)]
    alone = [[a.copy() for a in each] for each in states]
    adamw(*map(list, zip(*states, strict=True)), *SETTINGS, [0.1] * 6, 3)
    for together, each in zip(states, alone, strict=True):
        adamw(*([a] for a in each), *SETTINGS, [0.1], 3)
        assert all(map(same_bits, together, each))


def test_adamw_refuses_lists_of_different_lengths(adamw):
    p, g, m, v = state(0, 5)
    for lists in (([p, p], [g], [m], [v]), ([p], [g], [m], [])):
        with pytest.raises(ValueError, match=r"adamw: expected as many of each, got \["):
            adamw(*lists, *SETTINGS, [0.1], 3)


def test_adamw_of_zero_gradient_stays_put(adamw):
    p, g, m, v = state(0, 37)
    g[:], m[:], v[:] = 0, 0, 0
    before = p.copy()
    adamw([p], [g], [m], [v], *SETTINGS, [0.0], 1)
    np.testing.assert_array_equal(p, before)


def test_adamw_nan_spoils_its_element_only(adamw):
    p, g, m, v = state(0, 37)
    g[33] = np.nan
    adamw([p], [g], [m], [v], *SETTINGS, [0.0], 1)
    for a in (p, m, v):
        assert np.flatnonzero(np.isnan(a)).tolist() == [33]


lists = st.lists(
    rows_of(lengths | sizes).flatmap(lambda s: floats(s, (*TAME, "mixed"))), max_size=3
)


@given(lists)
def test_sum_squares_matches_float64(sum_squares, arrays):
    """Squares and sums in float64, where what is lost does not count."""
    got, wanted = sum_squares(arrays), [np.square(x.astype(np.float64)).sum() for x in arrays]
    assert isinstance(got, float)
    np.testing.assert_allclose(got, sum(wanted), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_sum_squares_shows_a_special_value(sum_squares, bad):
    x = np.ones(20000, np.float32)
    x[19999] = bad
    assert not np.isfinite(sum_squares([x[:3], x]))


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_sum_squares_does_not_over_or_underflow(sum_squares, size):
    """A squared float32 always fits float64: the norm of a huge gradient is a number."""
    x = np.full(20, size, np.float32)
    np.testing.assert_allclose(sum_squares([x]), 20 * float(np.float32(size)) ** 2, rtol=1e-5)


@given(lists, st.sampled_from([0.0, 0.3, -2.0, 1e30]))
def test_scale_all_multiplies_every_element_in_place(scale_all, arrays, factor):
    arrays = [x for x in arrays if x.flags.writeable]
    with np.errstate(all="ignore"):
        want = [x * np.float32(factor) for x in arrays]
        scale_all(arrays, factor)
    for x, expected in zip(arrays, want, strict=True):
        np.testing.assert_array_equal(x, expected)


def test_scale_all_refuses_read_only(scale_all):
    x = LAYOUTS["read-only"](np.ones(3, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        scale_all([x], 2.0)
