"""The profiler: what it hears, how calls nest, and that nothing stays behind."""

import threading

import numpy as np
import pytest

import minillm as ml
from minillm import autograd, kernels, nn, optim
from minillm import functional as F
from minillm.observe.profiler import Call, Profile, nest


@pytest.fixture
def layer():
    return nn.Linear(8, 4, rng=np.random.default_rng(0))


def training_step(layer, profile):
    with profile.phase("data"):
        x = np.ones((6, 8), np.float32)
    optimizer = optim.SGD(layer.parameters(), 0.1)
    F.gelu(layer(x)).sum().backward()
    optim.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()


def test_every_call_is_heard_with_its_phase_and_operation(layer):
    with ml.observe.profile() as p:
        training_step(layer, p)
    (step,) = p.steps
    heard = [(s.kind, s.name, s.phase, s.operation) for s in step.spans]
    assert heard == [
        ("block", "data", "data", ""),
        ("kernel", "matmul", "forward", "linear"),
        ("operation", "linear", "forward", ""),
        ("kernel", "gelu", "forward", "gelu"),
        ("operation", "gelu", "forward", ""),
        ("operation", "sum", "forward", ""),
        ("operation", "sum", "backward", ""),
        ("kernel", "gelu_vjp", "backward", "gelu"),
        ("operation", "gelu", "backward", ""),
        ("kernel", "matmul", "backward", "linear"),
        ("operation", "linear", "backward", ""),
        ("operation", "Tensor.backward", "backward", ""),
        ("kernel", "sum_squares", "clip", "clip_grad_norm_"),
        ("kernel", "scale_all", "clip", "clip_grad_norm_"),
        ("operation", "clip_grad_norm_", "clip", ""),
        ("operation", "Optimizer.step", "optimizer", ""),
    ]


def test_own_times_and_the_unclaimed_add_up_to_the_step(layer):
    p = Profile()
    for _ in range(3):
        with p:
            training_step(layer, p)
    assert len(p.steps) == 3
    for step in p.steps:
        assert all(span.own >= 0 for span in step.spans)
        assert 0 <= step.unclaimed < step.seconds
        assert sum(span.own for span in step.spans) + step.unclaimed == pytest.approx(step.seconds)


def test_call_knows_shapes_cost_and_implementation():
    a, b = np.ones((2, 3), np.float32), np.ones((5, 3), np.float32)
    with kernels.using(matmul="numpy"), Profile() as p:
        kernels.matmul(a, b, trans_b=True)
        kernels.matmul(a, a.T.copy())
    calls = [span.call for span in p.steps[0].spans]
    assert calls[0] == Call("matmul", "2×3 5×3 trans_b", "numpy", 2 * 2 * 3 * 5, 4 * (6 + 15 + 10))
    assert calls[1] == Call("matmul", "2×3 3×2", "numpy", 2 * 2 * 3 * 2, 4 * (6 + 6 + 4))


def test_nothing_is_attached_before_or_after_even_after_an_error(layer):
    before = list(kernels.observers), list(autograd.observers)
    p = Profile()
    with pytest.raises(ZeroDivisionError), p:
        raise ZeroDivisionError
    with p:
        assert len(kernels.observers) == len(before[0]) + 1
        with pytest.raises(RuntimeError, match="attached already"), p:
            pass
    training_step(layer, p)  # outside: the block that it marks belongs to no step
    assert (kernels.observers, autograd.observers) == before
    assert [step.spans for step in p.steps] == [[]]


def test_other_threads_are_not_heard(layer):
    with Profile() as p:
        thread = threading.Thread(target=layer, args=(np.ones((2, 8), np.float32),))
        thread.start()
        thread.join()
    assert p.steps[0].spans == []


def test_calls_nest_although_kernels_are_noticed_late():
    call = Call("k", "", "numpy", 0, 0)
    events = [  # in order of their end: a kernel in an operation, another beside it, the whole
        (1.0, 1.0, call),
        (1.0, 2.3, ("op", "forward")),
        (3.5, 1.0, call),
        (0.5, 4.0, ("whole", "backward")),  # it ended at 4.5, when the kernel had done so already
    ]
    kernel, op, later, whole = nest(events)
    assert (kernel.operation, kernel.phase, kernel.own) == ("op", "forward", 1.0)
    assert op.own == pytest.approx(1.3)
    assert (later.operation, later.phase) == ("whole", "backward")
    assert whole.own == pytest.approx(4.0 - 2.3 - 1.0)


def test_lists_of_arrays_have_a_short_description():
    record = kernels.Kernel("k", lambda arrays: 0.0, {}, lambda a: 1, lambda a: 2, floats=0)
    with Profile() as p:
        record([np.ones((2, 3)), np.ones(4)])
        record([(np.ones((2, 3)), np.ones(4)), (np.ones(5), None)])
        record([0.1, 0.2])
    calls = [span.call for span in p.steps[0].spans]
    assert calls[0] == Call("k", "2 arrays of 10", "numpy", 1, 2)
    assert calls[1] == Call("k", "3 arrays of 15", "numpy", 1, 2)
    assert calls[2] == Call("k", "", "numpy", 1, 2)
