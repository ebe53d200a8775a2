"""Optimizers against their formulas written out in float64, clipping, schedules, saved state."""

from math import cos, pi

import numpy as np
import pytest

import minillm as ml
from minillm import autograd, nn, optim

SHAPES = [(3, 4), (4,), ()]
DTYPES = [np.float32, np.float64]


def parameters(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [ml.Tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in SHAPES]


def gradients(steps, seed=1):
    """For each step one array for each parameter, in float64."""
    rng = np.random.default_rng(seed)
    return [[rng.standard_normal(s) for s in SHAPES] for _ in range(steps)]


def run(optimizer, steps_of_gradients):
    for grads in steps_of_gradients:
        for p, g in zip(optimizer.params, grads, strict=True):
            p.grad = g.astype(p.dtype)
        optimizer.step()
    return [p.data for p in optimizer.params]


def assert_close(actual, expected, dtype):
    """After a dozen steps: 64 roundings of numbers near 1."""
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(
            a, e, rtol=0, atol=32 * np.finfo(dtype).eps * max(1, np.abs(e).max())
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_its_formula(dtype, decay):
    lr, b1, b2, eps = 1e-2, 0.9, 0.99, 1e-8
    expected = [p.data.astype(np.float64) for p in parameters(dtype)]
    m, v = ([np.zeros(s) for s in SHAPES] for _ in range(2))
    for t, grads in enumerate(gradients(12), start=1):
        for i, g in enumerate(grads):
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * g * g
            decayed = expected[i] * (1 - lr * decay) if expected[i].ndim >= 2 else expected[i]
            expected[i] = decayed - lr * m[i] / (1 - b1**t) / (np.sqrt(v[i] / (1 - b2**t)) + eps)
    optimizer = optim.AdamW(parameters(dtype), lr, (b1, b2), eps, decay)
    assert_close(run(optimizer, gradients(12)), expected, dtype)


def test_adam_is_adamw_without_decay():
    adam = run(optim.Adam(parameters(), 0.1), gradients(5))
    adamw = run(optim.AdamW(parameters(), 0.1, weight_decay=0.0), gradients(5))
    for a, b in zip(adam, adamw, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sgd_is_its_formula(dtype, momentum, decay):
    lr = 0.05
    expected = [p.data.astype(np.float64) for p in parameters(dtype)]
    velocity = [np.zeros(s) for s in SHAPES]
    for grads in gradients(12):
        for i, g in enumerate(grads):
            velocity[i] = momentum * velocity[i] + g + decay * expected[i]
            expected[i] = expected[i] - lr * velocity[i]
    optimizer = optim.SGD(parameters(dtype), lr, momentum, decay)
    assert_close(run(optimizer, gradients(12)), expected, dtype)


def test_adamw_weight_decay_falls_on_matrices_only():
    layer = nn.Linear(3, 4)
    layer.bias.data[:] = 1
    before = layer.weight.data.copy()
    optimizer = optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    for p in optimizer.params:
        p.grad = np.zeros(p.shape, np.float32)
    optimizer.step()
    np.testing.assert_allclose(layer.weight.data, before * 0.95, rtol=1e-6)
    np.testing.assert_array_equal(layer.bias.data, np.ones(4))


OPTIMIZERS = [
    lambda params: optim.SGD(params, 0.1, momentum=0.9),
    lambda params: optim.Adam(params, 0.1),
    lambda params: optim.AdamW(params, 0.1, weight_decay=0.1),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_step_skips_parameters_without_a_gradient(make):
    used, unused = parameters()[:2]
    before = unused.data.copy()
    optimizer = make([used, unused])
    used.grad = np.ones(used.shape)
    optimizer.step()
    np.testing.assert_array_equal(unused.data, before)
    assert all(not optimizer.state[slot][1].any() for slot in optimizer.slots)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_step_changes_the_arrays_in_place_and_no_gradient(make):
    optimizer = make(parameters(np.float32))
    arrays = [p.data for p in optimizer.params]
    grads = gradients(1)
    run(optimizer, grads)
    for p, array, g in zip(optimizer.params, arrays, grads[0], strict=True):
        assert p.data is array
        np.testing.assert_array_equal(p.grad, g.astype(np.float32))
    optimizer.zero_grad()
    assert all(p.grad is None for p in optimizer.params)


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_saved_state_continues_bit_for_bit(make, dtype):
    before, after = gradients(4), gradients(4, seed=2)
    whole = run(make(parameters(dtype)), before + after)

    first = make(parameters(dtype))
    arrays = run(first, before)
    saved = {name: array.copy() for name, array in first.state_dict().items()}
    second = make([ml.Tensor(a.copy(), requires_grad=True) for a in arrays])
    second.load_state_dict(saved)
    for a, b in zip(run(second, after), whole, strict=True):
        np.testing.assert_array_equal(a, b)
    assert second.step_count == 8
    assert not any(
        np.shares_memory(array, saved[name]) for name, array in second.state_dict().items()
    )


def test_load_state_dict_names_every_misfit_and_changes_nothing():
    optimizer = optim.AdamW(parameters())
    run(optimizer, gradients(1))
    before = {name: array.copy() for name, array in optimizer.state_dict().items()}
    state = {name: array + 1 for name, array in before.items()}
    del state["m.0"]
    state |= {"v.1": np.ones(7), "w.0": np.ones(1)}
    with pytest.raises(ValueError, match=r"AdamW: state does not fit at m\.0, w\.0, v\.1"):
        optimizer.load_state_dict(state)
    for name, array in optimizer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.SGD([]), "SGD: there are no parameters"),
        (lambda: optim.SGD(parameters(), lr=-1), "SGD: lr.*-1"),
        (lambda: optim.AdamW(parameters(), lr=float("nan")), "AdamW: lr.*nan"),
        (lambda: optim.AdamW(parameters(), betas=(0.9, 1.0)), r"AdamW: betas.*\(0.9, 1.0\)"),
        (lambda: optim.Adam(parameters(), betas=(-0.1, 0.9)), "Adam: betas"),
    ],
)
def test_optimizer_refuses_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Clipping.


def with_gradients(*grads):
    tensors = [ml.Tensor(np.zeros_like(g), requires_grad=True) for g in grads]
    for t, g in zip(tensors, grads, strict=True):
        t.grad = g
    return tensors


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_grad_norm_scales_all_gradients_to_the_limit(dtype):
    a, b, c = np.array([[3, 0]], dtype), np.array([4.0], dtype), np.array(12.0, dtype)
    params = with_gradients(a.copy(), b.copy(), c.copy())
    assert optim.clip_grad_norm_(iter(params), 1.0) == pytest.approx(13)
    for p, g in zip(params, (a, b, c), strict=True):
        np.testing.assert_allclose(p.grad, g / 13, rtol=1e-6)
        assert p.grad.dtype == dtype


def test_clip_grad_norm_scales_the_gradient_that_backward_gave_a_scalar():
    x = nn.Parameter(np.float32(2))
    (x * 100).backward()
    assert optim.clip_grad_norm_([x], 1.0) == 100
    assert x.grad == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("limit", [13.0, 14.0, np.inf])
def test_clip_grad_norm_leaves_smaller_gradients_alone(limit):
    params = with_gradients(np.array([5.0, 12.0]))
    assert optim.clip_grad_norm_(params, limit) == 13
    np.testing.assert_array_equal(params[0].grad, [5, 12])


def test_clip_grad_norm_without_gradients_is_zero():
    assert optim.clip_grad_norm_(parameters(), 1.0) == 0


def test_clip_grad_norm_shows_what_is_not_finite():
    assert np.isnan(optim.clip_grad_norm_(with_gradients(np.array([1, np.nan])), 1.0))


# Schedules.


def nanogpt_get_lr(it, learning_rate, min_lr, warmup_iters, lr_decay_iters):
    """Copied from nanoGPT's train.py."""
    if it < warmup_iters:
        return learning_rate * (it + 1) / (warmup_iters + 1)
    if it > lr_decay_iters:
        return min_lr
    decay_ratio = (it - warmup_iters) / (lr_decay_iters - warmup_iters)
    coeff = 0.5 * (1.0 + cos(pi * decay_ratio))
    return min_lr + coeff * (learning_rate - min_lr)


@pytest.mark.parametrize("recipe", [(1e-3, 1e-4, 100, 2000), (6e-4, 6e-5, 3, 7), (1.0, 0.0, 0, 1)])
def test_cosine_with_warmup_is_nanogpts(recipe):
    schedule = optim.cosine_with_warmup(*recipe)
    *_, warmup, last = recipe
    for i in {
        0,
        1,
        warmup - 1,
        warmup,
        warmup + 1,
        (warmup + last) // 2,
        last - 1,
        last,
        last + 1,
        9**9,
    }:
        if i >= 0:
            assert schedule(i) == pytest.approx(nanogpt_get_lr(i, *recipe), rel=1e-12, abs=1e-15)


def test_cosine_with_warmup_corners():
    schedule = optim.cosine_with_warmup(1.0, 0.2, 4, 10)
    assert schedule(0) == pytest.approx(0.2)
    assert schedule(4) == 1.0
    assert schedule(7) == pytest.approx(0.6)
    assert schedule(10) == schedule(11) == 0.2
    assert optim.cosine_with_warmup(1.0, 0.2, 5, 5)(5) == 0.2  # all warm-up: nothing divides by 0


def test_constant_and_step_schedules():
    assert [optim.constant(0.1)(i) for i in (0, 10)] == [0.1, 0.1]
    schedule = optim.step(1.0, step_size=3, gamma=0.5)
    assert [schedule(i) for i in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_observers_hear_of_clipping_and_of_the_update():
    weight = nn.Parameter(np.ones(3, np.float32))
    weight.grad = np.ones(3, np.float32)
    optimizer, events = optim.SGD([weight], 0.1), []

    def observe(*event):
        events.append(event[:2])

    autograd.observers.append(observe)
    try:
        assert optim.clip_grad_norm_([weight], 1.0) == pytest.approx(3**0.5)
        optimizer.step()
        optimizer.zero_grad()
    finally:
        autograd.observers.remove(observe)
    assert events == [
        ("clip_grad_norm_", "clip"),
        ("Optimizer.step", "optimizer"),
        ("Optimizer.zero_grad", "optimizer"),
    ]
