"""embedding_vjp against float64: repeated and missing ids, any layout."""

import numpy as np
import pytest
from bounds import assert_within, gamma
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats, lengths


@st.composite
def inputs(draw):
    """dy (…, n), ids (…), rows: few rows, so that ids repeat."""
    lead = draw(st.sampled_from([(), (1,), (7,), (2, 3), (0,), (40,)]))
    rows = draw(st.sampled_from([1, 2, 9]))
    size = int(np.prod(lead))
    ids = draw(st.lists(st.integers(0, rows - 1), min_size=size, max_size=size))
    return draw(floats((*lead, draw(lengths)))), np.array(ids, np.int64).reshape(lead), rows


@given(inputs())
def test_embedding_vjp_matches_float64(embedding_vjp, arguments):
    """Row r sums as many gradients as it has ids: γ_count Σ|dy|, and sums underflow to nothing."""
    dy, ids, rows = arguments
    got = embedding_vjp(*arguments)
    hit = (ids.reshape(-1) == np.arange(rows)[:, None]).astype(np.float64)
    dy = dy.astype(np.float64).reshape(ids.size, dy.shape[-1])
    assert_within(got, hit @ dy, gamma(hit.sum(1, keepdims=True)) * (hit @ np.abs(dy)))


def test_embedding_vjp_nan_spoils_its_row_only(embedding_vjp):
    dy, ids = np.ones((4, 70), np.float32), np.array([2, 0, 2, 1])
    dy[0, 66] = np.nan
    want = np.array([[1.0], [1], [2], [0]]) * np.ones(70)
    want[2, 66] = np.nan
    np.testing.assert_array_equal(embedding_vjp(dy, ids, 4), want)


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, ">i8"])
def test_embedding_vjp_takes_any_integer_ids(embedding_vjp, dtype):
    dy = np.arange(12, dtype=np.float32).reshape(4, 3)
    ids = np.array([2, 9, 0, 9, 2, 9, 1, 9])[::2].astype(dtype)
    np.testing.assert_array_equal(embedding_vjp(dy, ids, 3), [[3, 4, 5], [9, 10, 11], [6, 8, 10]])


def test_embedding_vjp_of_no_tokens_is_zero(embedding_vjp):
    got = embedding_vjp(np.empty((0, 5), np.float32), np.empty(0, np.int64), 3)
    np.testing.assert_array_equal(got, np.zeros((3, 5)))


@pytest.mark.parametrize("layout", [np.copy, np.asfortranarray, np.float64])
def test_embedding_vjp_adds_into_what_is_given(embedding_vjp, layout):
    """Whatever its order and dtype, and where there is nothing to add."""
    rng = np.random.default_rng(0)
    dy, ids = rng.integers(-9, 9, (5, 70)).astype(np.float32), np.array([3, 0, 3, 3, 1])
    into = layout(rng.integers(-9, 9, (6, 70)).astype(np.float32))
    want = into + embedding_vjp(dy, ids, 6)
    assert embedding_vjp(dy, ids, 6, into) is into
    np.testing.assert_array_equal(into, want)
    with pytest.raises(ValueError, match=r"into must be \(7, 70\), got \(6, 70\)"):
        embedding_vjp(dy, ids, 7, into)
