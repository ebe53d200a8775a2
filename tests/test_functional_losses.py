"""The losses against their formulas, ignored targets, reductions, and PyTorch's corner cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm as ml
import minillm.functional as F


def normal(*shape):
    return np.random.default_rng(list(shape)).standard_normal(shape)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def leaf(array):
    return ml.Tensor(array, requires_grad=True)


@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.floats(0, 1),
    st.sampled_from([np.float32, np.float64]),
    st.randoms(use_true_random=False),
)
def test_cross_entropy_is_its_formula(N, V, smoothing, dtype, random):
    logits = (3 * normal(N, V)).astype(dtype)
    targets = np.array([random.choice([-100, random.randrange(V)]) for _ in range(N)])
    keep = targets != -100
    log_p = log_softmax(logits.astype(np.float64))
    picked = np.take_along_axis(log_p, np.where(keep, targets, 0)[:, None], 1)[:, 0]
    expected = keep * -((1 - smoothing) * picked + smoothing * log_p.mean(-1))
    args = {"label_smoothing": smoothing}
    rtol = 16 * np.finfo(dtype).eps
    atol = rtol * np.abs(logits).max()
    none = F.cross_entropy(logits, targets, reduction="none", **args).data
    assert none.dtype == dtype
    np.testing.assert_allclose(none, expected, rtol, atol)
    total = F.cross_entropy(logits, targets, reduction="sum", **args).data
    np.testing.assert_allclose(total, expected.sum(), rtol, N * atol)
    if keep.any():
        mean = F.cross_entropy(logits, targets, **args).data
        np.testing.assert_allclose(mean, expected.sum() / keep.sum(), rtol, atol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
def test_loss_with_every_target_ignored(loss, dtype):
    """As PyTorch: the mean is NaN, the sum 0, and the gradient of both is 0."""
    for reduction, value in (("mean", np.nan), ("sum", 0.0)):
        x = leaf(normal(2, 3).astype(dtype))
        y = loss(x, np.array([-100, -100]), reduction=reduction)
        y.backward()
        np.testing.assert_array_equal(y.data, value)
        np.testing.assert_array_equal(x.grad, np.zeros((2, 3)))


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
def test_ignored_target_leaves_the_others_as_they_are(loss):
    logits = log_softmax(normal(3, 5))
    a, b = leaf(logits), leaf(logits[[0, 2]])
    loss(a, np.array([1, 4, 3]), ignore_index=4).backward()
    loss(b, np.array([1, 3])).backward()
    np.testing.assert_array_equal(a.grad[1], 0)
    np.testing.assert_allclose(a.grad[[0, 2]], b.grad, rtol=1e-14)


def test_cross_entropy_ignored_row_may_hold_anything():
    x = leaf(np.array([[1.0, 2], [np.nan, np.inf]], np.float32))
    y = F.cross_entropy(x, np.array([0, -100]))
    y.backward()
    assert np.isfinite(y.data)
    np.testing.assert_array_equal(x.grad[1], 0)


def test_cross_entropy_of_huge_logits_is_finite():
    x = leaf(np.array([[1e4, -1e4, 0]], np.float32))
    y = F.cross_entropy(x, np.array([1]))
    y.backward()
    assert y.item() == pytest.approx(2e4)
    np.testing.assert_allclose(x.grad, [[1, -1, 0]])


def test_cross_entropy_of_one_row_without_a_batch_axis():
    x = normal(7)
    expected = F.cross_entropy(x[None], np.array([3])).data
    np.testing.assert_array_equal(F.cross_entropy(x, np.array(3)).data, expected)


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
def test_loss_targets_may_be_a_tensor_or_a_list(loss):
    x = log_softmax(normal(2, 3))
    expected = loss(x, np.array([2, 0])).data
    for targets in (ml.Tensor(np.array([2, 0])), [2, 0], np.array([2, 0], np.uint8)):
        np.testing.assert_array_equal(loss(x, targets).data, expected)


def test_nll_loss_of_log_softmax_is_cross_entropy():
    x, targets = normal(6, 5), np.array([0, 4, -100, 2, 2, 1])
    for reduction in ("mean", "sum", "none"):
        a = F.nll_loss(F.log_softmax(x), targets, reduction=reduction).data
        b = F.cross_entropy(x, targets, reduction=reduction).data
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_mse_loss_is_its_formula():
    x, y = normal(3, 4), normal(4)
    squares = (x - y) ** 2
    np.testing.assert_allclose(F.mse_loss(x, y).data, squares.mean())
    np.testing.assert_allclose(F.mse_loss(x, y, "sum").data, squares.sum())
    np.testing.assert_allclose(F.mse_loss(x, y, "none").data, squares)


def test_kl_div_is_its_formula_and_zero_for_equal_distributions():
    p = np.random.default_rng(0).dirichlet(np.ones(5), 3)
    log_q = log_softmax(normal(3, 5))
    elements = p * (np.log(p) - log_q)
    np.testing.assert_allclose(F.kl_div(log_q, p, "none").data, elements)
    np.testing.assert_allclose(F.kl_div(log_q, p).data, elements.mean())
    np.testing.assert_allclose(F.kl_div(log_q, p, "batchmean").data, elements.sum() / 3)
    np.testing.assert_allclose(F.kl_div(log_q, np.log(p), "sum", True).data, elements.sum())
    np.testing.assert_allclose(F.kl_div(np.log(p), p, "sum").data, 0, atol=1e-15)


def test_kl_div_where_p_is_zero_is_zero_whatever_q():
    log_q = leaf(np.array([[-np.inf, 0.0]]))
    y = F.kl_div(log_q, np.array([[0.0, 1.0]]), "sum")
    y.backward()
    assert y.item() == 0
    np.testing.assert_array_equal(log_q.grad, [[0, -1]])
