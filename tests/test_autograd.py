"""The engine: the chain rule over any graph, its memory, its errors, its modes."""

import gc
import itertools
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm as ml
import minillm.functional as F
from minillm import autograd, nn


def leaf(*values, dtype=np.float64):
    return ml.Tensor(np.array(values, dtype), requires_grad=True)


# The chain rule over random graphs, held to forward mode: each operation with its derivative along
# a direction, on (value, tangent) pairs, written here without the engine.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


OPERATIONS = {
    "add": (lambda x, y: x + y, lambda x, dx, y, dy: (x + y, dx + dy)),
    "sub": (lambda x, y: x - y, lambda x, dx, y, dy: (x - y, dx - dy)),
    "mul": (  # by tanh, so that values stay small however deep the graph
        lambda x, y: F.tanh(x) * y,
        lambda x, dx, y, dy: (
            np.tanh(x) * y,
            (1 - np.tanh(x) ** 2) * dx * y + np.tanh(x) * dy,
        ),
    ),
    "neg": (lambda x, _: -x, lambda x, dx, *_: (-x, -dx)),
    "sigmoid": (
        lambda x, _: F.sigmoid(x),
        lambda x, dx, *_: (sigmoid(x), sigmoid(x) * sigmoid(-x) * dx),
    ),
    "transpose": (lambda x, _: x.T, lambda x, dx, *_: (x.T, dx.T)),
}
steps = st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 99), st.integers(0, 99))


@given(st.lists(steps, min_size=1, max_size=25), st.integers(0, 2**32 - 1))
def test_backward_of_a_random_graph_is_the_transpose_of_forward_mode(graph, seed):
    """⟨backward(c), d⟩ = ⟨c, forward-mode derivative along d⟩; operands are any earlier results."""
    rng = np.random.default_rng(seed)
    leaves = [
        ml.Tensor(rng.standard_normal(s), requires_grad=True) for s in [(), (2,), (2, 2), (2, 1)]
    ]
    tensors = list(leaves)
    duals = [(t.data, rng.standard_normal(t.shape)) for t in leaves]
    directions = [tangent for _, tangent in duals]
    for name, i, j in graph:
        i, j = i % len(tensors), j % len(tensors)
        engine, forward_mode = OPERATIONS[name]
        tensors.append(engine(tensors[i], tensors[j]))
        duals.append(forward_mode(*duals[i], *duals[j]))

    value, tangent = duals[-1]
    c = rng.standard_normal(value.shape)
    tensors[-1].backward(c)
    np.testing.assert_allclose(tensors[-1].data, value, rtol=1e-12, atol=1e-12)
    backward = sum(
        np.sum(t.grad * d) for t, d in zip(leaves, directions, strict=True) if t.grad is not None
    )
    magnitude = sum(
        np.sum(np.abs(t.grad * d))
        for t, d in zip(leaves, directions, strict=True)
        if t.grad is not None
    )
    np.testing.assert_allclose(
        backward, np.sum(c * tangent), rtol=1e-10, atol=1e-12 * (1 + magnitude)
    )


@pytest.mark.parametrize("uses", [1, 2, 3, 10])
def test_backward_sums_over_all_users_of_a_node(uses):
    x = leaf(1.0, 2.0)
    y = x * 3
    total = y
    for _ in range(uses - 1):
        total = total + y
    total.backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, [3 * uses, 3 * uses])


# Deep graphs.


@pytest.mark.parametrize("retain_graph", [False, True])
def test_backward_through_100_000_nodes_and_their_deallocation(retain_graph):
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.backward(np.ones(1), retain_graph)
    np.testing.assert_array_equal(x.grad, [1])
    del y  # with retain_graph, 100,000 Nodes go at once


def test_graph_of_100_000_nodes_goes_without_a_backward():
    y = x = leaf(1.0)
    for _ in range(100_000):
        y = y * 1.0
    last = weakref.ref(y.data)
    del y
    assert last() is None
    assert x.grad is None


def test_backward_through_10_000_diamonds_takes_each_node_once():
    """Walked path by path it would take 2^10000 steps."""
    y = x = leaf(1.0)
    for _ in range(10_000):
        y = y * 0.25 + y * 0.75
    y.backward(np.ones(1))
    np.testing.assert_array_equal(x.grad, [1])


# no_grad.


def test_no_grad_records_nothing():
    x = leaf(1.0)
    with ml.no_grad():
        y = x * 2
    assert not y.requires_grad
    assert y.node is None
    with pytest.raises(RuntimeError, match="does not require"):
        y.backward()


def test_no_grad_nests_and_survives_exceptions():
    assert autograd.grad_enabled()
    with ml.no_grad():
        with pytest.raises(KeyError), ml.no_grad():
            raise KeyError
        assert not autograd.grad_enabled()
    assert autograd.grad_enabled()


def test_no_grad_is_per_thread():
    seen = []
    with ml.no_grad():
        thread = threading.Thread(target=lambda: seen.append((leaf(1.0) * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]


def test_no_grad_works_as_a_decorator():
    double = ml.no_grad()(lambda x: x * 2)
    assert not double(leaf(1.0)).requires_grad
    assert autograd.grad_enabled()


# backward: what it takes and what it refuses.


def test_backward_accumulates_over_calls():
    x = leaf(1.0, 2.0)
    for times in (1, 2, 3):
        (x * x).backward(np.ones(2))
        np.testing.assert_array_equal(x.grad, times * 2 * x.data)


def test_backward_with_retain_graph_can_be_repeated():
    x = leaf(1.0, 2.0)
    y = F.exp(x) * x
    y.backward(np.ones(2), retain_graph=True)
    once = x.grad.copy()
    y.backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, 2 * once)


def test_backward_twice_says_that_the_graph_was_freed():
    y = F.exp(leaf(1.0))
    y.backward()
    with pytest.raises(RuntimeError, match=r"freed at exp.*retain_graph=True"):
        y.backward()


def test_backward_through_a_part_freed_before_changes_no_gradient():
    x, w = leaf(1.0), leaf(2.0)
    shared = F.exp(x)
    shared.backward()
    before = x.grad.copy()
    with pytest.raises(RuntimeError, match="freed"):
        (shared * w).backward()
    np.testing.assert_array_equal(x.grad, before)
    assert w.grad is None


def test_backward_of_a_non_scalar_needs_a_cotangent():
    with pytest.raises(ValueError, match=r"\(2,\).*cotangent"):
        (leaf(1.0, 2.0) * 2).backward()
    x = ml.Tensor(np.ones((1, 1)), requires_grad=True)
    (x * 2).backward()  # one element needs none
    np.testing.assert_array_equal(x.grad, [[2]])


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1), (1, 2)])
def test_backward_refuses_a_cotangent_of_another_shape(shape):
    x = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match=r"expected a cotangent of shape \(2,\)"):
        (x * 2).backward(np.ones(shape))
    assert x.grad is None


@pytest.mark.parametrize(
    "wrap", [np.array, list, tuple, ml.Tensor, lambda c: np.array(c, np.int64)]
)
def test_backward_takes_cotangents_of_any_kind(wrap):
    x = leaf(1.0, 2.0)
    (x * 2).backward(wrap([3.0, 4.0]))
    np.testing.assert_array_equal(x.grad, [6, 8])


@pytest.mark.parametrize("layout", [lambda c: c[::-1], lambda c: c.astype(">f8"), lambda c: c.T])
def test_backward_takes_cotangents_of_any_layout(layout):
    x = ml.Tensor(np.zeros((3, 3)), requires_grad=True)
    c = layout(np.arange(9.0).reshape(3, 3))
    (x * 2).backward(c)
    np.testing.assert_array_equal(x.grad, 2 * c)


def test_backward_of_a_leaf_adds_the_cotangent_itself():
    x, c = leaf(1.0, 2.0), np.array([3.0, 4.0])
    x.backward(c)
    c[:] = 0
    np.testing.assert_array_equal(x.grad, [3, 4])


def test_backward_gives_nothing_to_what_does_not_require_it():
    x, constant = leaf(1.0), ml.Tensor(np.ones(1))
    (x * constant + constant).backward()
    assert constant.grad is None
    with pytest.raises(RuntimeError, match="does not require"):
        constant.backward()


@pytest.mark.parametrize("array", [np.arange(3), np.ones(2, bool), 1, [1, 2]])
def test_tensor_of_integers_cannot_require_gradients(array):
    with pytest.raises(TypeError, match=r"only floats.*got (int|bool)"):
        ml.Tensor(array, requires_grad=True)
    with pytest.raises(TypeError, match="only floats"):
        nn.Parameter(array)


# Gradients belong to their leaf alone.

TWO = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - (-y),
    "same": lambda x, y: x + x + y,
    "reshape": lambda x, y: x.reshape(4, 1).reshape(2, 2) + y.reshape(2, 2),
    "transpose": lambda x, y: x.T + y,
    "permute": lambda x, y: x.permute(1, 0) + y.permute(1, 0),
    "expand": lambda x, y: x.expand(3, 2, 2) + y.expand(3, 2, 2),
    "cat": lambda x, y: F.cat([x, y]),
    "stack": lambda x, y: F.stack([x, y]),
    "sum": lambda x, y: x.sum(0) + y.sum(0),
    "matmul": lambda x, y: x @ y,
    "where": lambda x, y: F.where(np.ones((2, 2), bool), x, y),
    "eval dropout": lambda x, y: F.dropout(x, 0.5, training=False) + y,
    "attention": lambda x, y: F.scaled_dot_product_attention(x, y, x),
}


@pytest.mark.parametrize("f", TWO.values(), ids=TWO)
def test_gradients_share_memory_with_nothing(f):
    x, y = (ml.Tensor(np.arange(4.0).reshape(2, 2) + i, requires_grad=True) for i in range(2))
    z = f(x, y)
    c = np.ones(z.shape)
    z.backward(c)
    arrays = [x.grad, y.grad, x.data, y.data, z.data, c]
    for a, b in itertools.combinations(arrays[:2] + arrays[2:], 2):
        if a is x.grad or a is y.grad:
            assert not np.shares_memory(a, b)
    expected = y.grad.copy()
    x.grad *= 0  # what gradient clipping does
    np.testing.assert_array_equal(y.grad, expected)
    np.testing.assert_array_equal(c, np.ones(z.shape))


def test_gradients_that_nobody_else_holds_are_added_to_in_place():
    """Also where they are views; dy, its views and what is read-only are not written to."""
    given, stays = [], []

    @autograd.op
    def twice(x, of):
        def vjp(dy):
            g = of(dy)
            given.append(g)
            stays.append(np.copy(g))
            return g, None

        return 1 * x, vjp

    def fresh(dy):
        return np.concatenate([dy, dy])[1:3]

    for of, written in [(fresh, True), (lambda dy: dy[:], False), (np.atleast_1d, False)]:
        given.clear(), stays.clear()
        x = leaf(1.0, 2.0)
        (twice(x, of) + twice(x, of)).backward(np.ones(2))
        np.testing.assert_array_equal(x.grad, stays[0] + stays[1])
        assert (x.grad is given[0]) == written, of
    x = leaf(1.0, 2.0)
    (twice(x, lambda dy: np.broadcast_to(dy.sum(), 2)) + x).backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, [3, 3])


def test_adding_vjp_is_given_what_has_arrived():
    """Where it adds in place, what somebody else may hold is lent as a copy."""
    lent = []

    @autograd.op
    def triple(x, in_place):
        def vjp(dy, before):
            lent.append(before)
            if before is None or not in_place:
                return (3 * dy + (0 if before is None else before),)
            before += 3 * dy
            return (before,)

        return 3 * x, autograd.Adding(vjp, 0, in_place)

    dy = np.ones(2)
    for in_place in (False, True):
        lent.clear()
        x = leaf(1.0, 2.0)
        y = 1 * x  # a Node, which must take its turn once
        z = triple(y, in_place) + triple(y, in_place) + y  # the last gives dy itself
        z.backward(dy)
        np.testing.assert_array_equal(x.grad, [7, 7])
        np.testing.assert_array_equal(dy, [1, 1])
        assert len(lent) == 2
        assert np.shares_memory(lent[0], lent[1]) == in_place  # the second time it is ours
    half = autograd.op(lambda x: (1 * x, lambda dy: (dy.astype(np.float16),)))
    x = leaf(1.0, 2.0)
    (triple(x, True) + half(x)).backward(dy)
    assert lent[-1] is None  # of another precision
    np.testing.assert_array_equal(x.grad, [4, 4])


def test_sparse_gradient_is_added_to_what_has_arrived():
    weight = ml.Tensor(np.ones((3, 2)), requires_grad=True)
    rows = F.embedding(np.array([2, 2, 0]), weight)
    (rows * 5 + F.embedding(np.array([1, 2, 2]), weight) @ np.eye(2)).backward(np.ones((3, 2)))
    np.testing.assert_array_equal(weight.grad, [[5, 5], [1, 1], [12, 12]])
    x = ml.Tensor(np.ones((2, 2)), requires_grad=True)
    dy = np.ones((2, 2))
    (x + F.embedding(np.array([1, 1]), x)).backward(dy)  # dy arrives at x, and is not ours
    np.testing.assert_array_equal(x.grad, [[1, 1], [3, 3]])
    np.testing.assert_array_equal(dy, np.ones((2, 2)))


@pytest.mark.parametrize(
    "value", [np.float32(2), np.ones(3, np.float32), np.ones((0, 2), np.float32)]
)
def test_gradients_are_arrays_of_their_leafs_shape_and_dtype(value):
    """Of a 0-d leaf too (clipping scales them in place), and in whatever precision they arrive."""
    x = ml.Tensor(value, requires_grad=True)
    for _ in range(2):
        (x * np.float64(3) * x).backward(np.ones(x.shape))
        assert type(x.grad) is np.ndarray
        assert (x.grad.shape, x.grad.dtype) == (x.shape, np.float32)
        assert x.grad.flags.writeable


# Memory: reference counting alone frees everything, at once.


@pytest.fixture
def no_gc():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_gc")
def test_graph_is_freed_with_its_last_reference():
    x = leaf(1.0, 2.0)
    y = F.exp(x)
    z = F.tanh(y).sum()
    saved = weakref.ref(y.data)
    del y
    assert saved() is not None  # exp's product needs it
    del z
    assert saved() is None


@pytest.mark.usefixtures("no_gc")
def test_graph_is_freed_by_backward_while_the_result_lives():
    x = leaf(1.0, 2.0)
    y = F.exp(x)
    z = F.tanh(y).sum()
    saved = weakref.ref(y.data)
    del y
    z.backward()
    assert saved() is None
    assert z.shape == ()


@pytest.mark.usefixtures("no_gc")
def test_gradients_on_the_way_are_freed_by_backward():
    gradients = []

    @autograd.op
    def spy(x):
        def vjp(dy):
            dx = dy * 1
            gradients.append(weakref.ref(dx))
            return (dx,)

        return x * 1, vjp

    x = leaf(1.0, 2.0)
    spy(F.exp(spy(x) * 2) * 3).backward(np.ones(2))
    assert len(gradients) == 2
    assert gradients[0]() is None
    x.grad = None
    assert gradients[1]() is None


@pytest.mark.usefixtures("no_gc")
def test_training_step_makes_no_cycles():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    logits = model(ml.Tensor(np.ones((5, 3), np.float32)))
    F.cross_entropy(logits, np.zeros(5, int)).backward()
    del logits
    assert gc.collect() == 0


# Operators.

OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: a**b,
}


@pytest.mark.parametrize("other", [2, 2.5, np.float32(2), np.full(3, 2.0, np.float32), True])
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_operators_take_numbers_and_arrays_on_both_sides(operator, other):
    x = leaf(1, 2, 3, dtype=np.float32)
    for y, expected in (
        (operator(x, other), operator(x.data, other)),
        (operator(other, x), operator(other, x.data)),
    ):
        assert isinstance(y, ml.Tensor)
        assert y.dtype == np.float32
        assert y.requires_grad
        np.testing.assert_array_equal(y.data, expected)


def test_matmul_operator_takes_arrays_on_both_sides():
    a, x = np.arange(6.0).reshape(2, 3), ml.Tensor(np.arange(6.0).reshape(3, 2), True)
    for y, expected in ((a @ x, a @ x.data), (x @ a, x.data @ a)):
        assert isinstance(y, ml.Tensor)
        np.testing.assert_array_equal(y.data, expected)


@pytest.mark.parametrize("scalar", [2, 2.5])
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_float32_stays_float32_with_python_numbers(operator, scalar):
    for shape in ((), (3,)):
        x = ml.Tensor(np.ones(shape, np.float32), requires_grad=True)
        y = operator(scalar, operator(x, scalar))
        y.backward(np.ones(shape, np.float32))
        assert y.dtype == x.grad.dtype == np.float32


def test_tensor_dtype_is_the_arrays_and_float32_for_python_floats():
    assert ml.Tensor(1.5).dtype == np.float32
    assert ml.Tensor([[1.0, 2.0]]).dtype == np.float32
    assert ml.Tensor(np.ones(2)).dtype == np.float64
    assert ml.Tensor(np.float64(1)).dtype == np.float64
    assert ml.Tensor([1, 2]).dtype.kind == "i"
    assert ml.Tensor(ml.Tensor(np.ones(2))).dtype == np.float64
    assert (leaf(1, dtype=np.float32) * leaf(1)).dtype == np.float64


def test_tensor_shares_the_array_it_is_given():
    array = np.ones(3)
    assert ml.Tensor(array).data is array
    assert ml.Tensor(array).numpy() is array
    assert ml.Tensor(array, requires_grad=True).detach().data is array
    assert not (ml.Tensor(array, requires_grad=True) * 2).detach().requires_grad


METHODS = {
    "exp": (), "log": (), "sqrt": (), "tanh": (), "sigmoid": (), "relu": (), "softmax": (0,),
    "sum": (1, True), "mean": (1,), "var": (1, 0, True), "max": (), "transpose": (0, 1),
    "masked_fill": (np.eye(2, dtype=bool), 3.0),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_tensor_method_is_the_function(name):
    x = ml.Tensor(np.array([[1.0, 2], [3, 4]]))
    expected = getattr(F, name)(x, *METHODS[name]).data
    np.testing.assert_array_equal(getattr(x, name)(*METHODS[name]).data, expected)


def test_tensor_describes_itself():
    x = leaf(1.0, 2.0)
    assert "requires_grad=True" in repr(x)
    assert "made by exp" in repr(F.exp(x))
    assert (x.ndim, x.size, len(x), x.shape) == (1, 2, 2, (2,))
    assert float(ml.Tensor(2.5)) == ml.Tensor(2.5).item() == 2.5


# Observers.


def test_observers_hear_of_every_operation_while_they_are_attached():
    events = []

    def observe(*event):
        events.append(event)

    autograd.observers.append(observe)
    try:
        (F.exp(leaf(1.0)) * 2).backward()
    finally:
        autograd.observers.remove(observe)
    F.exp(leaf(1.0)).backward()
    assert [event[:2] for event in events] == [
        ("exp", "forward"),
        ("mul", "forward"),
        ("mul", "backward"),
        ("exp", "backward"),
        ("Tensor.backward", "backward"),
    ]
    seconds, starts = ([event[i] for event in events] for i in (2, 3))
    assert all(s >= 0 for s in seconds)
    assert seconds[-1] >= seconds[2] + seconds[3]  # the whole takes in its parts
    assert starts[0] <= starts[1] <= starts[4] <= starts[2] <= starts[3]
