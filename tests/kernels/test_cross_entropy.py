"""cross_entropy and its gradient against float64: smoothing, ignored rows, special logits."""

import numpy as np
import pytest
from bounds import EXP, EXP_RANGE, LOG, TINY, U, assert_within, gamma, same_bits, wide
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats, lengths, seeds, special

IGNORED = -100
TAME = ("normal", "integers", "far", "subnormal")
SMOOTHING = st.sampled_from([0.0, 0.1, 1.0])
lengths = lengths.filter(bool)


@st.composite
def inputs(draw):
    """x (rows, n), targets with some of them ignored, the ignored index, smoothing."""
    rows, n = draw(st.sampled_from([0, 1, 2, 5])), draw(lengths)
    targets = draw(st.lists(st.integers(0, n - 1) | st.just(IGNORED), min_size=rows, max_size=rows))
    return draw(floats((rows, n), TAME)), np.array(targets, np.int64), IGNORED, draw(SMOOTHING)


def reference(x, targets, ignored, smoothing):
    """((loss, lse), their bounds).

    Subtracting the largest rounds an exponent by EXP_RANGE U at most, then exp, a sum of n, log; a
    relative error of the sum is an absolute one of its log. lse itself is rounded once. The mean of
    x sums n terms; a handful of roundings put the loss together.
    """
    (x,) = wide(x)
    n, keep, s = x.shape[-1], targets != ignored, float(np.float32(smoothing))
    top = x.max(-1)
    log = np.log(np.exp(x - top[:, None]).sum(-1))
    lse, mean, picked = top + log, x.mean(-1), x[np.arange(len(x)), np.where(keep, targets, 0)]
    loss = (1 - s) * (lse - picked) + s * (lse - mean)
    spread = np.minimum(top - x.min(-1, initial=0), EXP_RANGE)
    e_lse = gamma(spread + EXP + n) + LOG * U * log + U * np.abs(lse)
    e_mean = gamma(n) * np.abs(x).mean(-1)
    parts = (1 - s) * np.abs(lse - picked) + s * np.abs(lse - mean)
    e_loss = e_lse * (1 + 6 * U) + s * e_mean + 6 * U * parts + TINY
    return (loss * keep, lse * keep), (e_loss, e_lse)


@given(inputs())
def test_cross_entropy_matches_float64(cross_entropy, arguments):
    got = cross_entropy(*arguments)
    for result, want, bound in zip(got, *reference(*arguments), strict=True):
        assert_within(result, want, bound)


@given(inputs(), seeds)
def test_cross_entropy_vjp_matches_float64(cross_entropy_vjp, arguments, seed):
    """dx = g (p - s/n - (1 - s) [target]), p = exp(x - lse).

    The exponent is rounded once, then exp, and six roundings of the parts.
    """
    x, targets, ignored, smoothing = arguments
    (_, lse), _ = reference(*arguments)
    lse = lse.astype(np.float32)
    g = np.random.default_rng(seed).standard_normal(len(x)).astype(np.float32)
    got = cross_entropy_vjp(x, lse, g, targets, ignored, smoothing)
    x, lse, g = wide(x, lse[:, None], g[:, None])
    n, s, keep = x.shape[-1], float(np.float32(smoothing)), (targets != ignored)[:, None]
    hit = np.arange(n) == targets[:, None]
    p = np.exp(np.where(keep, x - lse, 0))
    exponent = np.minimum(np.abs(x - lse), EXP_RANGE)
    bound = p * gamma(exponent + EXP) + 6 * U * (p + s / n + (1 - s) * hit) + TINY
    bound = np.abs(g) * bound * keep + TINY * keep
    assert_within(got, np.where(keep, g * (p - s / n - (1 - s) * hit), 0), bound)


@given(seeds, lengths, SMOOTHING)
def test_cross_entropy_ignored_row_is_zero_whatever_it_holds(
    cross_entropy, cross_entropy_vjp, seed, n, smoothing
):
    rng = np.random.default_rng(seed)
    x, targets = special(rng, (3, n)), np.array([0, IGNORED, n - 1])
    x[1] = rng.choice([np.nan, np.inf, -np.inf])
    with np.errstate(all="ignore"):
        loss, lse = cross_entropy(x, targets, IGNORED, smoothing)
        dx = cross_entropy_vjp(x, lse, np.float32([1, np.nan, 1]), targets, IGNORED, smoothing)
    assert loss[1] == lse[1] == 0
    assert not dx[1].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_cross_entropy_special_logit_spoils_its_row_only(cross_entropy, bad):
    x = np.random.default_rng(0).standard_normal((3, 19)).astype(np.float32)
    clean = cross_entropy(x, np.array([1, 2, 3]))
    x[1, 18] = bad
    for before, after in zip(clean, cross_entropy(x, np.array([1, 2, 3])), strict=True):
        assert np.isnan(after[1])
        assert same_bits(after[::2], before[::2])


def test_cross_entropy_of_an_impossible_target_is_infinite(cross_entropy):
    x = np.array([[0, -np.inf, 0]], np.float32)
    loss, lse = cross_entropy(x, np.array([1]))
    assert loss[0] == np.inf
    np.testing.assert_allclose(lse, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(cross_entropy(x, np.array([0]))[0], np.log(2), rtol=1e-6)


def test_cross_entropy_takes_another_ignored_index(cross_entropy, cross_entropy_vjp):
    x, targets = np.ones((3, 4), np.float32), np.array([0, 2, 1])
    loss, lse = cross_entropy(x, targets, 2)
    assert (loss == 0).tolist() == [False, True, False]
    assert not cross_entropy_vjp(x, lse, np.ones(3, np.float32), targets, 2)[1].any()


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, ">i8"])
def test_cross_entropy_takes_any_integer_targets(cross_entropy, dtype):
    x = np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32)
    targets = np.array([3, 0, 8, 1, 5, 5, 2, 7])[::2]
    got, want = cross_entropy(x, targets.astype(dtype)), cross_entropy(x, targets.copy())
    assert all(map(same_bits, got, want))


@given(seeds, lengths, SMOOTHING)
def test_cross_entropy_row_does_not_depend_on_its_neighbours(cross_entropy, seed, n, smoothing):
    rng = np.random.default_rng(seed)
    x, targets = rng.standard_normal((6, n)).astype(np.float32), rng.integers(0, n, 6)
    whole = cross_entropy(x, targets, IGNORED, smoothing)
    alone = cross_entropy(x[4:5], targets[4:5], IGNORED, smoothing)
    assert all(same_bits(w[4:5], a) for w, a in zip(whole, alone, strict=True))
