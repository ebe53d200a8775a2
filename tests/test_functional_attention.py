"""Attention against its definition, every kind of mask, and rows that see nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minillm as ml
import minillm.functional as F

U = 2.0**-24


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def definition(q, k, v, seen=True, added=0.0, scale=None):
    """softmax(q kᵀ · scale + added) v in float64, over the keys that are seen; a blind row is 0."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = q @ k.swapaxes(-1, -2) * scale + added
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isinf(top), 0, top))
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total == 0, 1, total) @ v


def heads(T, S, D, width, dtype=np.float64):
    shapes = [(2, 3, T, D), (2, 3, S, D), (2, 3, S, width)]
    return [normal(*shape, seed=i).astype(dtype) for i, shape in enumerate(shapes)]


@given(
    st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9), st.booleans(),
    st.sampled_from([np.float32, np.float64]),
)  # fmt: skip
def test_sdpa_is_its_definition(T, S, D, width, is_causal, dtype):
    """Within 16 roundings of the largest |v| for each of a score's D terms and a sum's S."""
    q, k, v = heads(T, S, D, width, dtype)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal).data
    seen = np.tri(T, S, dtype=bool) if is_causal else True
    expected = definition(*(a.astype(np.float64) for a in (q, k, v)), seen)
    assert y.dtype == dtype
    u = np.finfo(dtype).eps / 2
    np.testing.assert_allclose(y, expected, rtol=0, atol=16 * u * (D + S) * np.abs(v).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (2, 1, 5, 7), (2, 3, 5, 7), (1, 7), (5, 1)])
def test_sdpa_boolean_and_float_masks(shape, dtype):
    q, k, v = heads(5, 7, 4, 4, dtype)
    mask = np.random.default_rng(1).random(shape) < 0.7
    added = normal(*shape, seed=9).astype(dtype)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    np.testing.assert_allclose(y.data, definition(q, k, v, seen=mask), atol=1e-5)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=added)
    np.testing.assert_allclose(y.data, definition(q, k, v, added=added), atol=1e-5)


def test_sdpa_boolean_mask_is_minus_infinity_added():
    q, k, v = heads(4, 6, 3, 3)
    mask = np.random.default_rng(1).random((4, 6)) < 0.5
    a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).data
    b = F.scaled_dot_product_attention(q, k, v, attn_mask=np.where(mask, 0.0, -np.inf)).data
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["boolean", "float"])
def test_sdpa_fully_masked_row_is_zero_and_so_are_its_gradients(kind, dtype):
    mask = np.ones((4, 4), bool)
    mask[1] = False
    if kind == "float":
        mask = np.where(mask, 0.0, -np.inf)
    q, k, v = (ml.Tensor(a, requires_grad=True) for a in heads(4, 4, 3, 3, dtype))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    y.backward(normal(*y.shape).astype(dtype))
    np.testing.assert_array_equal(y.data[:, :, 1], 0)
    np.testing.assert_array_equal(q.grad[:, :, 1], 0)
    assert all(np.isfinite(t.grad).all() for t in (q, k, v))
    assert all(np.any(t.grad != 0) for t in (q, k, v))


def test_sdpa_scale_replaces_the_square_root():
    q, k, v = heads(3, 3, 4, 4)
    y = F.scaled_dot_product_attention(q, k, v, scale=2.0).data
    np.testing.assert_allclose(y, definition(q, k, v, scale=2.0), rtol=1e-12)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (2, 3, 2)])
def test_sdpa_takes_any_leading_axes(lead):
    q, k, v = (normal(*lead, T, 4, seed=i) for i, T in enumerate((3, 5, 5)))
    y = F.scaled_dot_product_attention(q, k, v)
    np.testing.assert_allclose(y.data, definition(q, k, v), rtol=1e-12, atol=1e-12)


def test_sdpa_causal_with_more_keys_than_queries_starts_at_the_first_key():
    q, k, v = heads(3, 6, 4, 4)
    with_more = F.scaled_dot_product_attention(q, k, v, is_causal=True).data
    without = F.scaled_dot_product_attention(q, k[:, :, :3], v[:, :, :3], is_causal=True).data
    np.testing.assert_allclose(with_more, without, rtol=1e-12)


def test_sdpa_causal_future_cannot_be_seen_even_if_it_is_nan():
    q, k, v = heads(6, 6, 4, 4, np.float32)
    k[:, :, 4:], v[:, :, 4:] = 100, 100
    before = F.scaled_dot_product_attention(q, k, v, is_causal=True).data[:, :, :4].copy()
    k[:, :, 4:], v[:, :, 4:] = 3, -7
    after = F.scaled_dot_product_attention(q, k, v, is_causal=True).data[:, :, :4]
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("B", "T", "n_head", "D"), [(2, 5, 3, 4), (1, 1, 1, 1), (3, 17, 2, 8)])
def test_self_attention_is_sdpa_on_split_heads(dtype, is_causal, B, T, n_head, D):
    """Value and gradient; both run the same kernel on other strides, so 4 roundings are allowed."""
    x = normal(B, T, 3 * n_head * D).astype(dtype)
    cotangent = normal(B, T, n_head * D, seed=5).astype(dtype)
    together, apart = (ml.Tensor(x.copy(), requires_grad=True) for _ in range(2))
    y = F.self_attention(together, n_head, is_causal)
    y.backward(cotangent)

    q, k, v = (
        a.reshape(B, T, n_head, D).transpose(1, 2) for a in F.split(apart, n_head * D, dim=-1)
    )
    z = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    z = z.transpose(1, 2).reshape(B, T, n_head * D)
    z.backward(cotangent)
    bound = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(y.data, z.data, rtol=bound, atol=bound)
    np.testing.assert_allclose(together.grad, apart.grad, rtol=bound, atol=bound)
