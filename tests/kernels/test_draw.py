"""Every implementation draws the token whose share of [0, 1) the number lies in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minillm import kernels

quarters = st.integers(-80, 80).map(lambda n: n / 4)  # many ties
logits_of = hnp.arrays(np.float32, st.integers(1, 70), elements=quarters | st.just(-np.inf))


def shares(logits, temperature, top_k):
    """The probability of each token."""
    least = np.sort(logits)[-min(top_k, logits.size)]
    p = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    p = np.where(logits >= least, p, 0)
    return p / p.sum()


@given(
    logits_of.filter(lambda x: x.max() > -np.inf),
    st.floats(0.05, 20),
    st.integers(1, 80),
    st.floats(0, 1, exclude_max=True),
)
def test_draw_takes_the_token_in_whose_share_the_number_lies(draw, logits, temperature, top_k, u):
    token = draw(logits, temperature, top_k, 1.0, u)
    p = shares(logits, temperature, top_k)
    end = np.cumsum(p)[token]
    assert p[token] > 0
    assert end - p[token] - 1e-12 <= u <= end + 1e-12  # the sums are rounded


@pytest.mark.parametrize("exponent", [-40, -3, 0, 30])
def test_draw_finds_the_kth_largest_of_any_size_and_sign(draw, exponent):
    """Temperature 1e60 makes every token that is left as likely as any other."""
    rng = np.random.default_rng(0)
    logits = np.ldexp(rng.standard_normal(33).astype(np.float32), exponent)
    for k in (1, 2, 16, 32, 33):
        drawn = {draw(logits, 1e60, k, 1.0, u) for u in np.arange(0.01, 1, 0.01)}
        assert drawn == set(np.argsort(logits)[-k:])


def test_draw_keeps_what_ties_with_the_last(draw):
    logits = np.array([1, 0, 2, 1, -0.0], np.float32)
    assert {draw(logits, 1.0, 2, 1.0, u) for u in np.arange(0, 1, 0.01)} == {0, 2, 3}
    assert {draw(logits, 1.0, 4, 1.0, u) for u in np.arange(0, 1, 0.01)} == {0, 1, 2, 3, 4}


def test_draw_with_top_p_is_the_specification(draw):
    logits = np.random.default_rng(0).standard_normal(40).astype(np.float32)
    for u in np.arange(0, 1, 0.05):
        want = kernels.draw.specification(logits, 0.8, 30, 0.7, u)
        assert draw(logits, 0.8, 30, 0.7, u) == want


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_draw_in_c_from_what_has_no_probabilities_is_still_a_token(draw, value):
    for logits in (np.full(9, value, np.float32), np.array([0, value, 1], np.float32)):
        for k in (1, 2, 20):
            if draw.implementation != "numpy":
                assert 0 <= draw(logits, 1.0, k, 1.0, 0.5) < len(logits)
