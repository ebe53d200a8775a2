"""attention and its gradient against float64, over shapes, memory orders and the causal mask."""

import contextlib
import math

import numpy as np
import pytest
from bounds import EXP, EXP_RANGE, LOG, TINY, U, assert_within, gamma, same_bits, wide
from hypothesis import given
from hypothesis import strategies as st
from strategies import LAYOUTS, floats, seeds

TAME = ("normal", "integers")
lengths = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 63, 64, 65, 127, 129])
heads = st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 2), (0, 2)])
depths = st.sampled_from([1, 2, 3, 4, 7, 8, 9, 16, 17, 32, 33])


@st.composite
def inputs(draw):
    """q, k, v, causal, scale."""
    (B, H), T, S, D = draw(heads), draw(lengths), draw(lengths), draw(depths)
    arrays = [draw(floats((B, H, n, D), TAME)) for n in (T, S, S)]
    return *arrays, draw(st.booleans()), draw(st.sampled_from([1 / math.sqrt(D), 0.5]))


def mask(q, k, causal):
    return np.tri(q.shape[-2], k.shape[-2], dtype=bool) if causal else True


def scores(q, k, seen, scale):
    """(scale q kᵀ, its bound): D products and their sum, the scale and its own rounding."""
    s, size = (f(scale) * np.matmul(f(q), f(k).swapaxes(-1, -2)) for f in (np.asarray, np.abs))
    return np.where(seen, s, -np.inf), gamma(q.shape[-1] + 3) * np.where(seen, size, 0) + TINY


def forward(q, k, v, causal, scale):
    """((o, lse), their bounds).

    An error e of the scores changes each exponential by a factor exp(2 e) against the largest, the
    subtraction of the largest by EXP_RANGE U at most, exp by EXP, the sum of S terms by S, the
    division by 2; then o is a sum of S products.
    """
    q, k, v = wide(q, k, v)
    s, e = scores(q, k, mask(q, k, causal), scale)
    top = s.max(-1, keepdims=True)
    p, S = np.exp(s - top), k.shape[-2]
    total = p.sum(-1, keepdims=True)
    lse = (top + np.log(total))[..., 0]
    p /= total
    spread = np.minimum((top - np.where(s == -np.inf, top, s)).max(-1), EXP_RANGE)
    eta = np.expm1(2 * e.max(-1) + gamma(2 * spread + 2 * EXP + S + 2))
    bound = (eta[..., None] + gamma(S)) * np.matmul(p, np.abs(v)) + S * TINY * (
        1 + np.abs(v).max(initial=0)
    )
    lse_bound = eta + U * (np.abs(lse) + np.abs(top[..., 0]) + LOG * np.log(total)[..., 0])
    return (np.matmul(p, v), lse), (bound, lse_bound)


def backward(q, k, v, o, do, lse, causal, scale):
    """((dq, dk, dv), their bounds), from the lse and o given.

    p = exp(s - lse): the error of s, one rounding of the difference, exp.
    ds = scale p (dp - delta): two inner products of D terms, three roundings.
    The products sum S or T terms.
    """
    q, k, v, o, do, lse = wide(q, k, v, o, do, lse)
    s, e = scores(q, k, mask(q, k, causal), scale)
    S, T, D = k.shape[-2], q.shape[-2], q.shape[-1]
    p = np.exp(s - lse[..., None])
    eta = np.expm1(
        e + U * np.where(p > 0, np.abs(np.where(p > 0, s, 0) - lse[..., None]), 0) + EXP * U
    )
    dp, dp_size = (np.matmul(f(do), f(v).swapaxes(-1, -2)) for f in (np.asarray, np.abs))
    delta, delta_size = (f(do * o).sum(-1, keepdims=True) for f in (np.asarray, np.abs))
    ds = scale * p * (dp - delta)
    e_ds = (
        abs(scale)
        * p
        * ((eta + 4 * U) * np.abs(dp - delta) + gamma(D + 1) * (dp_size + delta_size))
    )
    e_ds = e_ds * (1 + eta) + TINY
    e_p, turn = p * eta + TINY, lambda a: a.swapaxes(-1, -2)
    size = np.abs
    return (
        (np.matmul(ds, k), np.matmul(turn(ds), q), np.matmul(turn(p), do)),
        (
            np.matmul(e_ds + gamma(S) * (size(ds) + e_ds), size(k)) + S * TINY,
            np.matmul(turn(e_ds + gamma(T + 3) * (size(ds) + e_ds)), size(q)) + T * TINY,
            np.matmul(turn(e_p + gamma(T + 3) * (p + e_p)), size(do)) + T * TINY,
        ),
    )


def assert_all_within(got, reference):
    for result, want, bound in zip(got, *reference, strict=True):
        assert_within(result, want, bound)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def saved(q, k, v, causal, scale, seed=0):
    """The arguments of attention_vjp: o and lse as forward in float64 gives them."""
    (o, lse), _ = forward(q, k, v, causal, scale)
    do = random(*q.shape, seed=seed + 9)
    return q, k, v, o.astype(np.float32), do, lse.astype(np.float32), causal, scale


@given(inputs())
def test_attention_matches_float64(attention, arguments):
    assert_all_within(attention(*arguments), forward(*arguments))


@given(inputs(), seeds)
def test_attention_vjp_matches_float64(attention_vjp, arguments, seed):
    arguments = saved(*arguments, seed=seed)
    assert_all_within(attention_vjp(*arguments), backward(*arguments))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("T", "S", "D"), [(5, 400, 9), (400, 5, 9), (390, 386, 9), (40, 90, 130), (33, 6000, 100)]
)
def test_attention_longer_than_a_block(attention, attention_vjp, T, S, D, causal):
    q, k, v = random(1, 1, T, D), random(1, 1, S, D, seed=1), random(1, 1, S, D, seed=2)
    assert_all_within(attention(q, k, v, causal, 0.3), forward(q, k, v, causal, 0.3))
    arguments = saved(q, k, v, causal, 0.3)
    assert_all_within(attention_vjp(*arguments), backward(*arguments))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention_takes_any_layout(attention, attention_vjp, layout):
    q, k, v = (LAYOUTS[layout](random(2, 3, 70, 8, seed=i)) for i in range(3))
    assert_all_within(attention(q, k, v, True, 0.3), forward(q, k, v, True, 0.3))
    *arrays, causal, scale = saved(q, k, v, True, 0.3)
    arguments = *(LAYOUTS[layout](a) for a in arrays), causal, scale
    assert_all_within(attention_vjp(*arguments), backward(*arguments))


def test_attention_reads_heads_out_of_one_projection(attention):
    """q, k and v as views of (B, T, 3 C), as a model makes them."""
    x = random(2, 70, 3, 4, 8)
    q, k, v = x.transpose(2, 0, 3, 1, 4)
    want = attention(q.copy(), k.copy(), v.copy(), True, 0.3)
    for got, copied in zip(attention(q, k, v, True, 0.3), want, strict=True):
        np.testing.assert_allclose(got, copied, rtol=0, atol=1e-6)


def test_attention_vjp_writes_into_views_and_nothing_else(attention_vjp):
    B, H, T, D = 2, 3, 70, 5
    arguments = saved(*(random(B, H, T, D, seed=i) for i in range(3)), True, 0.3)
    memory = np.full((B, T, 4, H, D), np.nan, np.float32)
    into = tuple(memory.transpose(2, 0, 3, 1, 4)[:3])
    attention_vjp(*arguments, into=into)
    assert_all_within(into, backward(*arguments))
    assert np.isnan(memory[:, :, 3]).all()


@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_attention_scale_of_any_sign_is_right_or_refused(attention, attention_vjp, scale):
    q, k, v = (10 * random(1, 2, 33, 8, seed=i) for i in range(3))
    with contextlib.suppress(ValueError):  # a refusal is as good as the right answer
        got = attention(q, k, v, True, scale)
        assert_all_within(got, forward(q, k, v, True, scale))
    arguments = saved(q, k, v, True, scale)
    with contextlib.suppress(ValueError):
        assert_all_within(attention_vjp(*arguments), backward(*arguments))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_without_keys_is_zero(attention, causal):
    k = np.empty((1, 2, 0, 4), np.float32)
    with np.errstate(divide="ignore"):
        o, lse = attention(random(1, 2, 3, 4), k, k, causal, 0.5)
    np.testing.assert_array_equal(o, np.zeros((1, 2, 3, 4)))
    assert (lse == -np.inf).all()


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)])
def test_attention_of_zero_size(attention, attention_vjp, shape):
    x = np.ones(shape, np.float32)
    o, lse = attention(x, x, x, True, 0.5)
    assert (o.shape, lse.shape) == (shape, shape[:-1])
    for grad in attention_vjp(x, x, x, o, x, lse, True, 0.5):
        assert grad.shape == shape


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_attention_special_query_spoils_its_row_only(attention, bad):
    q, k, v = (random(1, 2, 70, 8, seed=i) for i in range(3))
    clean = attention(q, k, v, True, 0.3)
    q[0, 1, 66, 3] = bad
    with np.errstate(invalid="ignore"):
        got = attention(q, k, v, True, 0.3)
    for before, after in zip(clean, got, strict=True):
        assert np.isnan(after[0, 1, 66]).all()
        after[0, 1, 66] = before[0, 1, 66]
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)


def test_attention_causal_ignores_later_keys(attention):
    q, k, v = (random(1, 1, 150, 8, seed=i) for i in range(3))
    o, lse = attention(q, k, v, True, 0.3)
    k[:, :, 100:] *= -3
    v[:, :, 100:] += 7
    after, lse_after = attention(q, k, v, True, 0.3)
    assert same_bits(o[:, :, :100].copy(), after[:, :, :100].copy())
    assert same_bits(lse[:, :, :100].copy(), lse_after[:, :, :100].copy())


def test_attention_head_does_not_depend_on_its_neighbours(attention):
    q, k, v = (random(3, 2, 70, 8, seed=i) for i in range(3))
    o, lse = attention(q, k, v, True, 0.3)
    alone, lse_alone = attention(q[1:2, 1:2], k[1:2, 1:2], v[1:2, 1:2], True, 0.3)
    if attention.implementation == "numpy":
        np.testing.assert_allclose(o[1:2, 1:2], alone, rtol=0, atol=1e-6)
    else:
        assert same_bits(o[1:2, 1:2].copy(), alone.copy())
        assert same_bits(lse[1:2, 1:2], lse_alone)
