"""The bigram model against counts made by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minillm.models import Bigram

IDS = np.array([0, 1, 0, 1, 2, 0])  # 0→1 twice, 1→0, 1→2, 2→0


@given(hnp.arrays(np.int64, st.integers(2, 60), elements=st.integers(0, 5)), st.floats(1e-3, 100))
def test_bigram_rows_sum_to_one(ids, k):
    p = np.exp(Bigram.fit(ids, 6, k).log_probs)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
    assert (p > 0).all()


def test_bigram_is_the_smoothed_counts():
    k = 0.5
    expected = np.array([[k, 2 + k, k], [1 + k, k, 1 + k], [1 + k, k, k]])
    expected /= np.array([[2 + 3 * k], [2 + 3 * k], [1 + 3 * k]])
    bigram = Bigram.fit(IDS, 3, k)
    np.testing.assert_allclose(np.exp(bigram.log_probs), expected, rtol=1e-14)


def test_bigram_without_evidence_is_uniform():
    np.testing.assert_allclose(np.exp(Bigram.fit(IDS, 7, 1.0).log_probs[5]), 1 / 7)


def test_bigram_loss_is_the_mean_surprise():
    bigram = Bigram.fit(IDS, 3, 1.0)
    p = [3 / 5, 2 / 5, 3 / 5, 2 / 5, 2 / 4]  # 0→1, 1→0, 0→1, 1→2, 2→0
    assert bigram.loss(IDS) == pytest.approx(-np.mean(np.log(p)), rel=1e-14)


def test_bigram_generates_what_it_counted():
    """Frequencies of 20,000 draws: four standard deviations of the least certain one."""
    bigram = Bigram.fit(IDS, 3, 0.1)
    ids = bigram.generate(np.array([2]), 20_000, np.random.default_rng(0))
    assert ids.dtype == np.int64
    assert ids.shape == (20_001,)
    assert ids[0] == 2
    counts = np.bincount(ids[:-1] * 3 + ids[1:], minlength=9).reshape(3, 3)
    frequencies = counts / counts.sum(1, keepdims=True)
    bound = 4 * 0.5 / np.sqrt(counts.sum(1).min())
    np.testing.assert_allclose(frequencies, np.exp(bigram.log_probs), atol=bound)
    again = bigram.generate(np.array([2]), 50, np.random.default_rng(0))
    np.testing.assert_array_equal(again, ids[:51])


@pytest.mark.parametrize("k", [0, -1, np.nan])
def test_bigram_needs_a_positive_k(k):
    with pytest.raises(ValueError, match="k must be positive"):
        Bigram.fit(IDS, 3, k)
