"""Every operation's gradient, in one table; both precisions; the errors.

The parts with more to say have files of their own: test_functional_shapes.py,
test_functional_attention.py, test_functional_losses.py.
"""

import inspect

import numpy as np
import pytest
from gradients import check_gradient

import minillm as ml
import minillm.functional as F

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape)


def positive(*shape):
    return rng.uniform(0.5, 2, shape)


def integers(high, *shape):
    return rng.integers(0, high, shape)


def booleans(*shape):
    return rng.random(shape) < 0.5


BROADCAST = [
    ((), ()),
    ((3, 4), (3, 4)),
    ((3, 4), (4,)),
    ((2, 1, 4), (3, 1)),
    ((1,), (0, 1)),
    ((), (5,)),
]
PAIRS = [pair for a, b in BROADCAST for pair in ((a, b), (b, a))]


def of_pairs(f, draw=normal):
    return [(f, draw(*a), draw(*b)) for a, b in PAIRS]


def each(f, *arrays):
    return [(f, a) for a in arrays]


def dropout(x):
    return F.dropout(x, 0.4, rng=np.random.default_rng(1))


def log_probabilities(*shape):
    return np.log(rng.dirichlet(np.ones(shape[-1]), shape[:-1]))


# By name: (function of the differentiable arrays, arrays…). A public function must be a key.
CASES = {
    "add": [*of_pairs(F.add), (lambda x: x + 2 + x, normal(3)), (lambda x: 2.5 + x, normal(2, 2))],
    "sub": [
        *of_pairs(F.sub),
        (lambda x: 2 - x, normal(3)),
        (lambda x: x - np.float32([1, 2, 3]), normal(2, 3)),
    ],
    "mul": [
        *of_pairs(F.mul),
        (lambda x: 2 * x * x, normal(3)),
        (lambda x: np.float32([0, 1, 2]) * x, normal(3)),
    ],
    "div": [*of_pairs(F.div, positive), (lambda x: 2 / x, normal(3)), (lambda x: x / 3, normal(3))],
    "pow": [
        *of_pairs(F.pow, positive),
        *[(lambda x, n=n: x**n, normal(5)) for n in (1, 2, 3, -1, -2)],
        (lambda x: x**0.5, positive(5)),
        (lambda x: 2**x, normal(5)),
        (lambda x: x**2, np.array([0.0, -1.0])),
    ],
    "neg": each(F.neg, normal(2, 3), normal()),
    "exp": each(F.exp, normal(2, 3), normal()),
    "log": each(F.log, positive(2, 3), positive()),
    "sqrt": each(F.sqrt, positive(2, 3), positive()),
    "tanh": each(F.tanh, normal(2, 3), normal()),
    "sigmoid": each(F.sigmoid, normal(2, 3), 9 * normal(4)),
    "erf": each(F.erf, normal(2, 3), 3 * normal(4)),
    "relu": each(F.relu, normal(4, 5), normal(4, 5).T),
    "gelu": [
        *each(F.gelu, normal(4, 5), normal(5, 4).T, 4 * normal(7)),
        (lambda x: F.gelu(x, approximate="tanh"), normal(4, 5)),
    ],
    "silu": each(F.silu, normal(4, 5), 4 * normal(7)),
    "dropout": [*each(dropout, normal(6, 7)), (lambda x: F.dropout(x, 0.4, False), normal(3))],
    "matmul": [
        (F.matmul, normal(*a), normal(*b))
        for a, b in [
            ((2, 3), (3, 4)),
            ((3,), (3,)),
            ((3,), (3, 4)),
            ((2, 3), (3,)),
            ((5, 2, 3), (3,)),
            ((3,), (5, 3, 4)),
            ((5, 2, 3), (3, 4)),
            ((2, 3), (5, 3, 4)),
            ((5, 1, 2, 3), (6, 3, 4)),
            ((1, 2, 3), (5, 3, 4)),
            ((2, 0), (0, 4)),
            ((0, 3), (3, 4)),
        ]
    ],
    "linear": [
        (F.linear, normal(2, 3), normal(4, 3)),
        (F.linear, normal(3), normal(4, 3), normal(4)),
        (F.linear, normal(2, 5, 3), normal(4, 3), normal(4)),
        (lambda x, w, b: F.linear(bias=b, weight=w, x=x), normal(2, 3), normal(4, 3), normal(4)),
        (F.linear, normal(2, 5, 3), normal(4, 3), normal(4), normal(2, 5, 4)),
        (lambda x, w, r: F.linear(x, w, None, r), normal(3), normal(4, 3), normal(4)),
    ],
    "feed_forward": [
        (
            lambda x, a, b: F.feed_forward(x, a, None, b, None),
            normal(5, 3),
            normal(7, 3),
            normal(2, 7),
        ),
        (
            F.feed_forward,
            normal(2, 5, 3),
            normal(7, 3),
            normal(7),
            normal(3, 7),
            normal(3),
            normal(2, 5, 3),
        ),
        (F.feed_forward, normal(3), normal(7, 3), normal(7), normal(3, 7), normal(3), normal(3)),
        (
            lambda x, a, b: F.feed_forward(x, a, None, b, None, x, approximate="tanh"),
            normal(2, 3),
            normal(7, 3),
            normal(3, 7),
        ),
    ],
    "sum": [
        *each(F.sum, normal(2, 3), normal()),
        *[(lambda x, d=d: F.sum(x, d), normal(2, 3, 4)) for d in (0, -1, (0, 2), ())],
        (lambda x: F.sum(x, 1, keepdim=True), normal(2, 3)),
        (lambda x: x.sum(dim=(0, 1), keepdim=True), normal(2, 3)),
    ],
    "mean": [
        *each(F.mean, normal(2, 3), normal()),
        *[(lambda x, d=d: F.mean(x, d), normal(2, 3, 4)) for d in (1, -2, (1, -1))],
        (lambda x: F.mean(x, -1, keepdim=True), normal(2, 3)),
    ],
    "var": [
        *each(F.var, normal(2, 3)),
        *[(lambda x, c=c: F.var(x, -1, c), normal(3, 5)) for c in (0, 1, 2)],
        (lambda x: F.var(x, (0, 2), correction=0, keepdim=True), normal(2, 3, 4)),
    ],
    "max": [
        *each(F.max, normal(3, 4)),
        *[(lambda x, d=d: F.max(x, d).values, normal(2, 3, 4)) for d in (0, 1, -1)],
        (lambda x: F.max(x, 0, keepdim=True).values, normal(3, 4)),
    ],
    "reshape": [
        (lambda x: F.reshape(x, (3, 2)), normal(2, 3)),
        (lambda x: x.reshape(-1, 2).view(6), normal(3, 2).T),
        (lambda x: x.reshape(()), normal(1, 1)),
    ],
    "permute": [
        (lambda x: F.permute(x, (2, 0, 1)), normal(2, 3, 4)),
        (lambda x: x.permute(1, -1, 0), normal(2, 3, 4)),
        (lambda x: x.T, normal(2, 3)),
    ],
    "transpose": [
        (lambda x: F.transpose(x, 0, 2), normal(2, 3, 4)),
        (lambda x: x.transpose(-1, -2), normal(2, 3, 4)),
    ],
    "expand": [
        (lambda x: F.expand(x, (5, 2, 3)), normal(2, 3)),
        (lambda x: x.expand(4, 2, -1), normal(2, 1)),
        (lambda x: x.expand(2, 3), normal()),
    ],
    "cat": [
        (lambda *xs: F.cat(xs), normal(2, 3), normal(1, 3), normal(0, 3)),
        (lambda *xs: F.cat(xs, dim=-1), normal(2, 3), normal(2, 1)),
        (lambda x: F.cat([x, x]), normal(3)),
    ],
    "stack": [
        *[(lambda *xs, d=d: F.stack(xs, d), normal(2, 3), normal(2, 3)) for d in (0, 1, -1)],
        (lambda *xs: F.stack(xs), normal(), normal()),
    ],
    "split": [
        (lambda x: F.cat(F.split(x, 2)[::-1]), normal(5, 2)),
        (lambda x: F.split(x, [1, 3], dim=-1)[1], normal(2, 4)),
    ],
    "getitem": [
        (lambda x, i=i: x[i], normal(3, 4, 5))
        for i in [
            1,
            np.s_[::2, 1:, ::-1],
            np.s_[..., -1],
            np.s_[:, None, 2],
            np.array([0, 2, 0, 0]),
            [1, 1],
            np.s_[:, np.array([[0, 1], [1, 1]])],
            (np.array([0, 0]), np.array([1, 1])),
            (slice(None), np.array([3, 3]), slice(1, 2)),
            np.arange(3) != 1,
            np.s_[..., np.array([0, 0])],
            (),
        ]
    ],
    "where": [
        *[
            (lambda x, y, c=c: F.where(c, x, y), normal(3, 4), normal(3, 4))
            for c in [booleans(3, 4)]
        ],
        *[
            (lambda x, y, c=c: F.where(c, x, y), normal(4), normal(2, 1, 1))
            for c in [booleans(3, 4)]
        ],
        (lambda x: F.where(x.data > 0, x, 0.0), normal(3, 4)),
        (lambda x: F.where(x.data > 0, 1.0, x), normal(3, 4)),
    ],
    "masked_fill": [
        (lambda x: F.masked_fill(x, np.eye(3, dtype=bool), -7.0), normal(3, 3)),
        (lambda x: x.masked_fill(np.array([True, False, False]), 2), normal(2, 3)),
    ],
    "gather": [
        (lambda x, d=d, i=i: F.gather(x, d, i), normal(3, 4))
        for d, i in [(0, integers(3, 2, 4)), (1, integers(4, 3, 9)), (-1, np.zeros((1, 3), int))]
    ],
    "embedding": [
        (lambda w, i=i: F.embedding(i, w), normal(4, 3))
        for i in [integers(4, 2, 9), np.array(2), np.empty((0,), int), np.array([1, 1, 1])]
    ],
    "softmax": [
        *each(F.softmax, normal(3, 4), normal(5), normal(2, 1)),
        *[(lambda x, d=d: F.softmax(x, d), normal(2, 3, 4)) for d in (0, 1, -2)],
    ],
    "log_softmax": [
        *each(F.log_softmax, normal(3, 4), normal(5)),
        *[(lambda x, d=d: F.log_softmax(x, d), normal(2, 3, 4)) for d in (0, 1)],
    ],
    "layer_norm": [
        (lambda x: F.layer_norm(x, 5), normal(3, 5)),
        (lambda x, w: F.layer_norm(x, 5, w), normal(2, 3, 5), normal(5)),
        (lambda x, b: F.layer_norm(x, (5,), bias=b, eps=0.1), normal(3, 5), normal(5)),
        (
            lambda x, w, b: F.layer_norm(x, (2, 3), w, b),
            normal(4, 2, 3),
            normal(2, 3),
            normal(2, 3),
        ),
        (lambda x, w, b: F.layer_norm(x, (2, 3), w, b), normal(2, 3), normal(2, 3), normal(2, 3)),
    ],
    "scaled_dot_product_attention": [
        (F.scaled_dot_product_attention, normal(4, 3), normal(5, 3), normal(5, 3)),
        (F.scaled_dot_product_attention, normal(2, 4, 3), normal(2, 5, 3), normal(2, 5, 7)),
        *[
            (
                lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7),
                normal(2, 3, T, 4),
                normal(2, 3, S, 4),
                normal(2, 3, S, width),
            )
            for T, S, width in [(5, 5, 4), (6, 3, 4), (3, 6, 4), (4, 4, 2)]
        ],
        *[
            (
                lambda q, k, v, m=m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
                normal(2, 3, 4, 5),
                normal(2, 3, 6, 5),
                normal(2, 3, 6, 5),
            )
            for m in [booleans(4, 6), booleans(2, 1, 4, 6), normal(4, 6), normal(2, 3, 4, 6)]
        ],
    ],
    "self_attention": [
        (lambda x: F.self_attention(x, 2), normal(2, 4, 18)),
        (lambda x: F.self_attention(x, 3, is_causal=True), normal(2, 5, 18)),
    ],
    "cross_entropy": [
        (lambda x: F.cross_entropy(x, np.array([1, 0, -100, 3])), normal(4, 5)),
        (lambda x: F.cross_entropy(x, np.array([1, 0, -100, 3]), reduction="sum"), normal(4, 5)),
        (lambda x: F.cross_entropy(x, np.array([1, 0, 2, 3]), 2, "none"), normal(4, 5)),
        (lambda x: F.cross_entropy(x, np.array([1, 0]), label_smoothing=0.3), normal(2, 5)),
        (lambda x: F.cross_entropy(x, np.array([1, -100]), label_smoothing=1.0), normal(2, 5)),
        (lambda x: F.cross_entropy(x, np.array(4)), normal(5)),
    ],
    "nll_loss": [
        (
            lambda x, r=r: F.nll_loss(x, np.array([1, 0, -100, 3]), reduction=r),
            log_probabilities(4, 5),
        )
        for r in ("mean", "sum", "none")
    ],
    "mse_loss": [
        (lambda x, y, r=r: F.mse_loss(x, y, reduction=r), normal(3, 4), normal(3, 4))
        for r in ("mean", "sum", "none")
    ],
    "kl_div": [
        *[
            (lambda q, r=r: F.kl_div(q, np.float32([[0.3, 0, 0.7]]), r), log_probabilities(2, 3))
            for r in ("mean", "sum", "none", "batchmean")
        ],
        (F.kl_div, log_probabilities(2, 3), positive(2, 3)),
        (
            lambda q, p: F.kl_div(q, p, log_target=True),
            log_probabilities(2, 3),
            log_probabilities(2, 3),
        ),
    ],
}
TABLE = [
    pytest.param(f, arrays, id=f"{name}-{i}")
    for name, cases in CASES.items()
    for i, (f, *arrays) in enumerate(cases)
]


def test_functional_every_public_function_has_a_gradient_case():
    public = {
        name
        for name, f in vars(F).items()
        if inspect.isfunction(f) and f.__module__ == F.__name__ and not name.startswith("_")
    }
    assert public == set(CASES)


@pytest.mark.parametrize(("f", "arrays"), TABLE)
def test_functional_gradient_matches_central_differences(f, arrays):
    check_gradient(f, *arrays)


@pytest.mark.parametrize(("f", "arrays"), TABLE)
def test_functional_float32_agrees_with_float64(f, arrays):
    """To within 32 roundings (u = 2⁻²⁴) of the largest element, or of 1."""

    def run(dtype):
        leaves = [ml.Tensor(a.astype(dtype), requires_grad=True) for a in arrays]
        y = f(*leaves)
        assert y.dtype == dtype
        y.backward(cotangent[: y.size].reshape(y.shape).astype(dtype))
        return [y.data, *[t.grad for t in leaves]]

    arrays = [a.astype(np.float32) for a in arrays]
    cotangent = np.random.default_rng(2).standard_normal(1000).astype(np.float32)
    for single, double in zip(run(np.float32), run(np.float64), strict=True):
        assert single.dtype == np.float32
        bound = 32 * 2**-24 * max(1, np.abs(double).max(initial=0))
        np.testing.assert_allclose(single, double, rtol=0, atol=bound)


@pytest.mark.parametrize("f", [F.log, F.sqrt, F.exp, F.tanh, F.sigmoid, F.softmax, F.relu, F.erf])
def test_functional_takes_arrays_and_returns_tensors(f):
    x = np.linspace(0.1, 2, 6, dtype=np.float32)
    y = f(x)
    assert isinstance(y, ml.Tensor)
    assert not y.requires_grad
    np.testing.assert_array_equal(y.data, f(ml.Tensor(x, requires_grad=True)).data)


@pytest.mark.parametrize("f", [F.sigmoid, F.silu, F.tanh, F.gelu, F.erf, F.softmax, F.log_softmax])
def test_functional_does_not_overflow_far_out(f):
    x = ml.Tensor(np.array([-1e4, -100, 100, 1e4], np.float32), requires_grad=True)
    y = f(x)
    y.backward(np.ones(4, np.float32))
    assert np.isfinite(y.data).all()
    assert np.isfinite(x.grad).all()


@pytest.mark.parametrize("f", [F.relu, F.gelu, F.silu, F.softmax, F.max, F.sum])
def test_functional_nan_stays(f):
    x = np.array([1, np.nan, 2], np.float32)
    assert np.isnan(f(x).data).any()


def test_pow_of_zero_has_the_limits_gradients():
    """0⁰ = 1 has gradient 0 for the base, as a constant; x^y at x = 0 has gradient 0 for y > 0."""
    x = ml.Tensor(np.array([0.0, 2.0]), requires_grad=True)
    (x**0).backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, [0, 0])

    y = ml.Tensor(np.array([2.0, 3.0]), requires_grad=True)
    (np.array([0.0, -1.0]) ** y).backward(np.ones(2))
    np.testing.assert_array_equal(y.grad, [0, 0])


def test_max_shares_the_gradient_among_ties():
    x = ml.Tensor(np.array([[1.0, 3], [3, 3]]), requires_grad=True)
    F.max(x).backward(6.0)
    np.testing.assert_array_equal(x.grad, [[0, 2], [2, 2]])


def test_max_along_an_axis_gives_ties_to_the_index_returned():
    x = ml.Tensor(np.array([[3.0, 3, 1], [0, 2, 2]]), requires_grad=True)
    values, indices = x.max(1)
    values.backward(np.array([5.0, 7]))
    np.testing.assert_array_equal(values.data, [3, 2])
    np.testing.assert_array_equal(indices, [0, 1])
    np.testing.assert_array_equal(x.grad, [[5, 0, 0], [0, 7, 0]])


@pytest.mark.parametrize("correction", [0, 1, 2])
@pytest.mark.parametrize("dim", [None, 0, -1, (0, 1)])
def test_var_is_numpys(correction, dim):
    x = normal(4, 5)
    expected = np.var(x, dim, ddof=correction)
    np.testing.assert_allclose(F.var(x, dim, correction).data, expected, rtol=1e-12)


def test_layer_norm_rows_have_mean_0_and_variance_1():
    y = F.layer_norm(3 + 5 * normal(4, 64), 64, eps=0.0).data
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(-1), 1, rtol=1e-12)


def test_softmax_rows_sum_to_one_along_any_axis():
    x = normal(3, 4, 5)
    for dim in (0, 1, 2, -1):
        np.testing.assert_allclose(F.softmax(x, dim).data.sum(dim), 1, rtol=1e-14)


@pytest.mark.parametrize("f", [F.softmax, F.log_softmax])
@pytest.mark.parametrize("row", [[-np.inf] * 3, [np.inf, 1, 2], [np.nan, 1, 2]])
def test_softmax_of_a_hopeless_row_is_nan_without_a_warning(f, row):
    x = np.array([row, [1, 2, 3]], np.float32)
    y = f(x).data
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()


def test_dropout_keeps_the_mean_and_the_fraction():
    """1 million draws: the fraction's standard deviation is 0.0005; five of them are allowed."""
    y = F.dropout(np.ones(10**6, np.float32), 0.3, rng=np.random.default_rng(0)).data
    dropped = np.mean(y == 0)
    assert abs(dropped - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 10**6)
    np.testing.assert_array_equal(np.unique(y), np.array([0, 1 / 0.7], np.float32))


def test_dropout_draws_from_the_rng_it_is_given():
    x = np.ones(1000, np.float32)
    a, b, c = (F.dropout(x, 0.5, rng=np.random.default_rng(seed)).data for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_dropout_is_the_identity_outside_training_and_zero_at_one():
    x = normal(3, 4)
    np.testing.assert_array_equal(F.dropout(x, 0.5, training=False).data, x)
    np.testing.assert_array_equal(F.dropout(x, 0.0).data, x)
    np.testing.assert_array_equal(F.dropout(x, 1.0, rng=rng).data, np.zeros((3, 4)))


def test_embedding_repeats_accumulate_exactly():
    weight = ml.Tensor(np.zeros((3, 2), np.float32), requires_grad=True)
    F.embedding(np.array([[1, 1], [0, 1]]), weight).backward(np.ones((2, 2, 2), np.float32))
    np.testing.assert_array_equal(weight.grad, [[1, 1], [3, 3], [0, 0]])


X = np.ones((2, 3))
Q = np.ones((2, 3, 4, 5))
ERRORS = [
    (ValueError, r"matmul.*\(2, 3\).*\(2, 3\)", lambda: F.matmul(X, X)),
    (TypeError, "matmul.*int64", lambda: F.matmul(np.ones((2, 3), int), X.T)),
    (ValueError, r"linear.*\(2, 3\).*\(4, 2\)", lambda: F.linear(X, np.ones((4, 2)))),
    (ValueError, r"linear.*bias.*\(4,\).*\(3,\)", lambda: F.linear(X, np.ones((4, 3)), np.ones(3))),
    (ValueError, r"layer_norm.*\(2, 3\).*\(4,\)", lambda: F.layer_norm(X, 4)),
    (ValueError, r"layer_norm: weight.*\(3,\).*\(2,\)", lambda: F.layer_norm(X, 3, np.ones(2))),
    (ValueError, r"layer_norm: bias.*\(3,\).*\(2,\)", lambda: F.layer_norm(X, 3, bias=np.ones(2))),
    (ValueError, "split.*do not add up to 3", lambda: F.split(X, [1, 1], 1)),
    (ValueError, "split.*0", lambda: F.split(X, 0)),
    (ValueError, "axis 5", lambda: F.sum(X, 5)),
    (ValueError, "axis -3", lambda: F.mean(X, -3)),
    (ValueError, "gelu.*none.*tanh.*fast", lambda: F.gelu(X, "fast")),
    (TypeError, "gelu.*int64", lambda: F.gelu(X.astype(int))),
    (TypeError, "softmax.*int64", lambda: F.softmax(X.astype(int))),
    (ValueError, r"dropout.*\[0, 1\].*1.5", lambda: F.dropout(X, 1.5)),
    (ValueError, "dropout.*rng", lambda: F.dropout(X, 0.5)),
    (ValueError, "embedding.*0 … 3.*7", lambda: F.embedding(np.array([1, 7]), np.ones((4, 2)))),
    (ValueError, "embedding.*-1", lambda: F.embedding(np.array([-1]), np.ones((4, 2)))),
    (TypeError, "embedding.*float64", lambda: F.embedding(np.ones(2), np.ones((4, 2)))),
    (ValueError, "attention.*not both", lambda: F.scaled_dot_product_attention(X, X, X, X, True)),
    (ValueError, "attention.*fit", lambda: F.scaled_dot_product_attention(X, np.ones((2, 4)), X)),
    (ValueError, "attention.*fit", lambda: F.scaled_dot_product_attention(X, X, np.ones((3, 3)))),
    (ValueError, "self_attention.*7", lambda: F.self_attention(np.ones((1, 2, 7)), 2)),
    (ValueError, r"cross_entropy.*\(2,\).*\(3,\)", lambda: F.cross_entropy(X, np.zeros(3, int))),
    (ValueError, "cross_entropy.*0 … 2", lambda: F.cross_entropy(X, np.array([0, 3]))),
    (TypeError, "cross_entropy.*float64", lambda: F.cross_entropy(X, np.zeros(2))),
    (ValueError, "nll_loss.*0 … 2", lambda: F.nll_loss(X, np.array([0, 3]))),
    (ValueError, "nll_loss.*0 … 2", lambda: F.nll_loss(X, np.array([0, -1]))),
    *[
        (
            ValueError,
            'reduction.*"none", "mean" or "sum".*avg',
            lambda f=f, y=y: f(X, y, reduction="avg"),
        )
        for f, y in [
            (F.cross_entropy, [0, 1]),
            (F.nll_loss, [0, 1]),
            (F.mse_loss, X),
            (F.kl_div, X),
        ]
    ],
    (ValueError, "attention.*fit", lambda: F.scaled_dot_product_attention(Q, Q, Q[0, 0])),
    (
        ValueError,
        "attention.*mask",
        lambda: F.scaled_dot_product_attention(
            Q[0, 0], Q[0, 0], Q[0, 0], np.ones((2, 1, 4, 4), bool)
        ),
    ),
    (TypeError, "erf.*int64", lambda: F.erf(np.arange(3))),
]


@pytest.mark.parametrize(("error", "message", "f"), ERRORS, ids=[e[1][:24] for e in ERRORS])
def test_functional_error_names_operation_expectation_and_arrival(error, message, f):
    with pytest.raises(error, match=message):
        f()
