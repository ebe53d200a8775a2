"""Indexing, joining and cutting: values against NumPy, gradients counted by hand."""

import numpy as np
import pytest
from gradients import check_gradient
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minillm as ml
import minillm.functional as F


def leaf(*shape):
    return ml.Tensor(np.arange(np.prod(shape, dtype=int), dtype=np.float64).reshape(shape), True)


def numbered(*shape):
    return leaf(*shape).data


@given(st.data())
def test_getitem_basic_is_numpys_and_spreads_the_gradient(data):
    x = leaf(3, 4, 2)
    index = data.draw(hnp.basic_indices(x.shape, allow_newaxis=True))
    y = x[index]
    np.testing.assert_array_equal(y.data, x.data[index])
    y.backward(y.data + 1)
    expected = np.zeros(x.shape)
    expected[index] = x.data[index] + 1
    np.testing.assert_array_equal(x.grad, expected)


@given(st.data())
def test_getitem_arrays_accumulate_repeats(data):
    """The gradient of x[i] with cotangent 1 counts how often each element was picked."""
    x = leaf(3, 4)
    index = data.draw(hnp.integer_array_indices(x.shape))
    y = x[index]
    np.testing.assert_array_equal(y.data, x.data[index])
    y.backward(np.ones(y.shape))
    np.testing.assert_array_equal(
        x.grad, np.bincount(x.data[index].astype(int).ravel(), minlength=12).reshape(3, 4)
    )


@given(hnp.arrays(bool, (3, 4)))
def test_getitem_boolean_mask(mask):
    x = leaf(3, 4)
    y = x[mask]
    np.testing.assert_array_equal(y.data, x.data[mask])
    y.backward(np.full(y.shape, 2.0))
    np.testing.assert_array_equal(x.grad, 2.0 * mask)


def test_getitem_takes_tensors_as_indices():
    x, i = leaf(3, 4), ml.Tensor(np.array([2, 2]))
    np.testing.assert_array_equal(x[i].data, x.data[[2, 2]])
    np.testing.assert_array_equal(x[:, i].data, x.data[:, [2, 2]])


def test_getitem_out_of_range_is_an_index_error_so_iteration_ends():
    x = leaf(3, 4)
    with pytest.raises(IndexError):
        x[3]
    assert [row.shape for row in x] == [(4,)] * 3


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3, min_side=0))
def test_add_and_mul_broadcast_like_numpy_and_sum_gradients_back(shapes):
    a, b = (1 + np.arange(np.prod(s, dtype=int)).reshape(s) / 7.0 for s in shapes.input_shapes)
    for f, op in ((F.add, np.add), (F.mul, np.multiply)):
        np.testing.assert_array_equal(f(a, b).data, op(a, b))
        check_gradient(f, a, b)


@given(hnp.broadcastable_shapes((2, 1, 3), min_dims=3, max_dims=5, max_side=4))
def test_expand_is_a_view_whose_gradient_sums_back(shape):
    x = leaf(2, 1, 3)
    if np.broadcast_shapes(shape, x.shape) != shape:
        return
    y = x.expand(shape)
    np.testing.assert_array_equal(y.data, np.broadcast_to(x.data, shape))
    assert np.shares_memory(y.data, x.data)
    y.backward(np.ones(shape))
    np.testing.assert_array_equal(x.grad, np.full(x.shape, np.prod(shape) / x.size))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_split_undoes_cat(dim):
    parts = [numbered(2, 3), 10 + numbered(2, 3), 20 + numbered(2, 3)]
    joined = F.cat(parts, dim)
    np.testing.assert_array_equal(joined.data, np.concatenate(parts, dim))
    for piece, part in zip(F.split(joined, parts[0].shape[dim], dim), parts, strict=True):
        np.testing.assert_array_equal(piece.data, part)


def test_split_last_piece_is_smaller():
    assert [p.shape for p in F.split(leaf(7, 2), 3)] == [(3, 2), (3, 2), (1, 2)]
    assert [p.shape for p in F.split(leaf(2, 7), [0, 6, 1], dim=1)] == [(2, 0), (2, 6), (2, 1)]


def test_split_pieces_that_are_not_used_get_zero_gradient():
    x = leaf(4)
    F.split(x, 1)[2].backward(np.array([5.0]))
    np.testing.assert_array_equal(x.grad, [0, 0, 5, 0])


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_stack_is_numpys_and_hands_each_input_its_slice(dim):
    a, b = leaf(2, 3), leaf(2, 3)
    y = F.stack([a, b], dim)
    np.testing.assert_array_equal(y.data, np.stack([a.data, b.data], dim))
    c = np.random.default_rng(0).standard_normal(y.shape)
    y.backward(c)
    np.testing.assert_array_equal(a.grad, np.take(c, 0, dim))
    np.testing.assert_array_equal(b.grad, np.take(c, 1, dim))


def test_gather_is_take_along_axis_and_accumulates():
    x, index = leaf(3, 4), np.array([[0, 0, 0], [3, 1, 3], [2, 2, 1]])
    y = F.gather(x, 1, index)
    np.testing.assert_array_equal(y.data, np.take_along_axis(x.data, index, 1))
    y.backward(np.ones((3, 3)))
    np.testing.assert_array_equal(x.grad, [[3, 0, 0, 0], [0, 1, 0, 2], [0, 1, 2, 0]])


def test_where_and_masked_fill_give_no_gradient_where_the_other_was_taken():
    x, y = leaf(4), leaf(4)
    mask = np.array([True, False, True, False])
    F.where(mask, x, y).backward(np.full(4, np.inf))  # inf · 0 would be NaN
    np.testing.assert_array_equal(x.grad, [np.inf, 0, np.inf, 0])
    np.testing.assert_array_equal(y.grad, [0, np.inf, 0, np.inf])
    z = leaf(4)
    z.masked_fill(mask, -np.inf).backward(np.full(4, np.inf))
    np.testing.assert_array_equal(z.grad, [0, np.inf, 0, np.inf])


def test_reshape_and_permute_are_numpys():
    x = leaf(2, 3, 4)
    np.testing.assert_array_equal(x.reshape(4, -1).data, x.data.reshape(4, 6))
    np.testing.assert_array_equal(x.permute(2, 0, 1).data, x.data.transpose(2, 0, 1))
    np.testing.assert_array_equal(x.T.data, x.data.T)


@pytest.mark.parametrize("dim", [None, 0, -1, (0, 2), (), np.int64(1)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_sum_and_mean_are_numpys(dim, keepdim):
    x = numbered(2, 3, 4)
    np.testing.assert_allclose(F.sum(x, dim, keepdim).data, x.sum(dim, keepdims=keepdim))
    np.testing.assert_allclose(F.mean(x, dim, keepdim).data, x.mean(dim, keepdims=keepdim))
