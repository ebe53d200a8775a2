"""What choose() may return, and how often."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minillm.models.sampling import choose

quarters = st.integers(-80, 80).map(lambda n: n / 4)  # ties, but none that only rounding makes
logits_of = hnp.arrays(np.float32, st.integers(1, 20), elements=quarters)
seeds = st.integers(0, 2**32 - 1)


def softmax(x):
    p = np.exp(x.astype(np.float64) - x.max())
    return p / p.sum()


@given(logits_of)
def test_choose_at_temperature_zero_takes_the_likeliest(logits):
    assert choose(logits, temperature=0) == logits.argmax()


@given(logits_of, st.integers(1, 25), st.floats(0.1, 10), seeds)
def test_choose_top_k_stays_among_the_k_likeliest(logits, k, temperature, seed):
    i = choose(logits, temperature, top_k=k, rng=np.random.default_rng(seed))
    assert np.sum(logits > logits[i]) < k


@given(logits_of, st.floats(0, 1, exclude_min=True), st.floats(0.1, 10), seeds)
def test_choose_top_p_stays_among_the_fewest_that_reach_p(logits, top_p, temperature, seed):
    i = choose(logits, temperature, top_p=top_p, rng=np.random.default_rng(seed))
    p = softmax(logits / np.float64(temperature))
    assert p[logits > logits[i]].sum() < top_p + 1e-12  # the sum is rounded


@given(logits_of, st.integers(1, 20), st.floats(0.01, 1), seeds)
def test_choose_with_top_k_and_top_p_is_top_p_of_what_top_k_left(logits, k, top_p, seed):
    left = np.where(logits >= np.sort(logits)[-min(k, len(logits))], logits, -np.inf)
    both = choose(logits, 1.0, k, top_p, np.random.default_rng(seed))
    assert both == choose(left, 1.0, None, top_p, np.random.default_rng(seed))


@given(logits_of, seeds)
def test_choose_never_takes_the_impossible(logits, seed):
    logits = np.append(logits, -np.inf)
    assert choose(logits, rng=np.random.default_rng(seed)) < len(logits) - 1


@given(
    logits_of, st.floats(0.5, 2), st.sampled_from([None, 3]), st.sampled_from([None, 0.8]), seeds
)
def test_choose_draws_one_number_for_a_token(logits, temperature, top_k, top_p, seed):
    """So that two ways to the same logits go on alike."""
    used, other = np.random.default_rng(seed), np.random.default_rng(seed)
    choose(logits, temperature, top_k, top_p, used)
    other.random()
    assert used.bit_generator.state == other.bit_generator.state


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_choose_frequencies_are_the_softmax(temperature):
    """Of 20,000 draws each frequency is within 4 standard deviations."""
    logits, rng, n = np.array([0.0, 1.0, 2.0, -1.0], np.float32), np.random.default_rng(0), 20_000
    counts = np.bincount([choose(logits, temperature, rng=rng) for _ in range(n)], minlength=4)
    p = softmax(logits / temperature)
    np.testing.assert_allclose(counts / n, p, rtol=0, atol=4 * np.sqrt(p * (1 - p) / n).max())


def test_choose_at_a_tiny_temperature_is_the_likeliest_without_a_warning():
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    for temperature in (1e-6, 1e-300, 5e-324):
        assert choose(logits, temperature, rng=np.random.default_rng(0)) == 1


@pytest.mark.parametrize(
    "arguments",
    [{"temperature": -1}, {"temperature": np.nan}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.5}],
)
def test_choose_refuses_parameters_out_of_range(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        choose(np.zeros(3), rng=np.random.default_rng(0), **arguments)


def test_choose_without_an_rng_is_a_type_error():
    with pytest.raises(TypeError, match="rng"):
        choose(np.zeros(3))
