"""Splits and windows: which tokens go where, and that y is x one token later."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.data import fixed_batches, sample_batch, sequential_windows, train_val_split
from minillm.errors import UserError

# The ids are their own positions, so that a window shows where it was cut.


@given(n=st.integers(0, 2_000_000), fraction=st.floats(0, 1))
def test_train_val_split_cuts_at_int_of_fraction_times_n(n, fraction):
    ids = np.broadcast_to(np.int64(0), n)
    train, val = train_val_split(ids, fraction)
    assert (len(train), len(val)) == (int(fraction * n), n - int(fraction * n))


def test_train_val_split_is_nanogpts_on_tinyshakespeares_length():
    ids = np.arange(1_115_394)
    train, val = train_val_split(ids)
    assert len(train) == 1_003_854
    assert val[0] == 1_003_854
    assert np.shares_memory(train, ids)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_train_val_split_rejects_a_fraction_outside_0_1(fraction):
    with pytest.raises(ValueError, match="fraction"):
        train_val_split(np.arange(10), fraction)


@given(
    n=st.integers(2, 50),
    batch_size=st.integers(1, 5),
    data=st.data(),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]),
)
def test_sample_batch_is_contiguous_windows_shifted_by_one(n, batch_size, data, dtype):
    block_size = data.draw(st.integers(1, n - 1))
    x, y = sample_batch(np.arange(n, dtype=dtype), batch_size, block_size, np.random.default_rng(0))
    assert x.shape == y.shape == (batch_size, block_size)
    assert x.dtype == y.dtype == np.int64
    np.testing.assert_array_equal(x, x[:, :1] + np.arange(block_size))
    np.testing.assert_array_equal(y, x + 1)


@pytest.mark.parametrize(("n", "block_size"), [(9, 4), (5, 4), (2, 1)])
def test_sample_batch_reaches_every_offset_and_no_other(n, block_size):
    x, _ = sample_batch(np.arange(n), 1000, block_size, np.random.default_rng(0))
    assert set(x[:, 0].tolist()) == set(range(n - block_size))


def test_sample_batch_draws_what_integers_of_the_generator_draws():
    ids = np.arange(1000)
    x, _ = sample_batch(ids, 12, 64, np.random.default_rng(7))
    offsets = np.random.default_rng(7).integers(1000 - 64, size=12)
    np.testing.assert_array_equal(x[:, 0], offsets)


@pytest.mark.parametrize("n", [0, 1, 63, 64])
def test_sample_batch_rejects_a_text_that_does_not_exceed_the_context(n):
    with pytest.raises(UserError) as caught:
        sample_batch(np.arange(n), 1, 64, np.random.default_rng(0))
    message = str(caught.value)
    assert "\n" not in message
    assert "64" in message
    assert f"got {n}:" in message
    assert "--block-size" in message


def test_fixed_batches_depend_on_the_seed_alone():
    ids = np.arange(1000)
    first, again, other = (fixed_batches(ids, 4, 8, 3, seed) for seed in (1, 1, 2))
    assert len(first) == 3
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


@given(n=st.integers(2, 80), block_size=st.integers(1, 20), batch_size=st.integers(1, 5))
def test_sequential_windows_predict_every_token_but_the_first_once(n, block_size, batch_size):
    batches = list(sequential_windows(np.arange(n), block_size, batch_size))
    targets = np.concatenate([y.ravel() for _, y in batches])
    np.testing.assert_array_equal(targets, np.arange(1, n))
    for x, y in batches:
        np.testing.assert_array_equal(y, x + 1)
        assert x.shape[0] <= batch_size
        assert x.shape[1] <= block_size
    assert all(x.shape[1] == block_size for x, _ in batches[:-1])


@pytest.mark.parametrize("n", [0, 1])
def test_sequential_windows_reject_a_text_with_nothing_to_predict(n):
    with pytest.raises(UserError, match="at least 2 tokens"):
        list(sequential_windows(np.arange(n), 4, 1))
