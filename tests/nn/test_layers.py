"""The layers: their formulas, their shapes, how their weights start."""

import numpy as np
import pytest

import minillm as ml
import minillm.functional as F
from minillm import kernels, nn


def rng():
    return np.random.default_rng(0)


def normal(*shape):
    return rng().standard_normal(shape, np.float32)


def test_linear_is_x_w_transposed_plus_b():
    layer = nn.Linear(3, 4, rng=rng())
    layer.bias.data[:] = [1, 2, 3, 4]
    x = normal(2, 5, 3)
    np.testing.assert_allclose(layer(x).data, x @ layer.weight.data.T + [1, 2, 3, 4], rtol=1e-5)
    assert nn.Linear(3, 4, bias=False).bias is None


def test_embedding_looks_rows_up():
    layer = nn.Embedding(5, 3, rng())
    ids = np.array([[4, 0], [4, 4]])
    np.testing.assert_array_equal(layer(ids).data, layer.weight.data[ids])


def test_layer_norm_starts_as_plain_normalisation():
    x = normal(4, 8)
    np.testing.assert_array_equal(nn.LayerNorm(8)(x).data, F.layer_norm(x, 8).data)
    assert nn.LayerNorm(8, bias=False).bias is None


def test_weights_start_as_in_gpt2():
    """50,000 draws: their spread is within 4 · 1/√(2 · 50,000) = 1.3 % of the one asked for."""
    for weight, std in [
        (nn.Linear(250, 200, rng=rng()).weight, 0.02),
        (nn.Linear(250, 200, rng=rng(), std=0.5).weight, 0.5),
        (nn.Embedding(250, 200, rng=rng()).weight, 0.02),
        (nn.FeedForward(112, rng=rng()).c_fc.weight, 0.02),
        (nn.FeedForward(112, rng=rng(), proj_std=0.1).c_proj.weight, 0.1),
        (nn.MultiHeadAttention(130, 1, rng=rng()).c_attn.weight, 0.02),
        (nn.MultiHeadAttention(224, 1, rng=rng(), proj_std=0.1).c_proj.weight, 0.1),
    ]:
        assert weight.dtype == np.float32
        assert weight.data.std() == pytest.approx(std, rel=0.013)
        assert abs(weight.data.mean()) < 4 * std / np.sqrt(weight.size)
    np.testing.assert_array_equal(nn.Linear(3, 4).bias.data, np.zeros(4))
    np.testing.assert_array_equal(nn.LayerNorm(4).weight.data, np.ones(4))


@pytest.mark.skipif(len(kernels.available()["matmul"]) == 1, reason="no compiled kernels")
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (65, 128), (0, 4)])
def test_weights_begin_at_a_cache_line(shape):
    weights = [nn.Embedding(*shape).weight.data for _ in range(20)]
    assert all(w.shape == shape and w.flags.carray for w in weights)
    assert not any(w.ctypes.data % 64 for w in weights if w.size)


def test_weights_are_decided_by_the_rng():
    a, b, c = (nn.Linear(3, 4, rng=np.random.default_rng(s)).weight.data for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).all()


def test_dropout_layer_drops_in_training_only():
    layer = nn.Dropout(0.5, rng())
    x = np.ones((100, 10), np.float32)
    assert set(np.unique(layer(x).data)) == {0.0, 2.0}
    assert layer.eval()(x) is x
    assert nn.Dropout(0.0)(x) is x


@pytest.mark.parametrize("is_causal", [False, True])
def test_multi_head_attention_is_attention_on_each_head(is_causal):
    B, T, C, n_head = 2, 5, 12, 3
    layer = nn.MultiHeadAttention(C, n_head, is_causal=is_causal, rng=rng())
    x = normal(B, T, C)
    qkv = layer.c_attn(x)
    heads = []
    for h in range(n_head):
        q, k, v = (qkv[..., i * C + 4 * h : i * C + 4 * (h + 1)] for i in range(3))  # (B, T, 4)
        heads.append(F.scaled_dot_product_attention(q, k, v, is_causal=is_causal))
    expected = layer.c_proj(F.cat(heads, -1))
    np.testing.assert_allclose(layer(x).data, expected.data, rtol=1e-5, atol=1e-7)


def test_multi_head_attention_needs_a_divisible_width():
    with pytest.raises(ValueError, match=r"attention: n_head 3 .* n_embd 10"):
        nn.MultiHeadAttention(10, 3)


@pytest.mark.parametrize("pieces", [[6], [1] * 6, [3, 2, 1], [1, 5]])
def test_multi_head_attention_with_a_cache_continues_the_sequence(pieces):
    layer = nn.MultiHeadAttention(8, 2, rng=rng())
    x = normal(2, 6, 8)
    cache, outputs, at = nn.KeyValueCache(9), [], 0
    with ml.no_grad():
        for n in pieces:
            outputs.append(layer(ml.Tensor(x[:, at : at + n]), cache).data)
            at += n
        expected = layer(ml.Tensor(x)).data
    assert cache.length == 6
    np.testing.assert_allclose(np.concatenate(outputs, 1), expected, rtol=1e-5, atol=1e-7)


def test_key_value_cache_returns_all_so_far():
    cache = nn.KeyValueCache(4)
    k, v = normal(2, 1, 3, 2), -normal(2, 1, 3, 2)
    cache.append(k[:, :, :1], v[:, :, :1])
    keys, values = cache.append(k[:, :, 1:], v[:, :, 1:])
    np.testing.assert_array_equal(keys, k)
    np.testing.assert_array_equal(values, v)


def test_feed_forward_is_gelu_between_two_linear_layers_four_times_as_wide():
    layer = nn.FeedForward(6, rng=rng())
    x = normal(2, 6)
    assert layer.c_fc.weight.shape == (24, 6)
    expected = layer.c_proj(F.gelu(layer.c_fc(x)))
    np.testing.assert_array_equal(layer(x).data, expected.data)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    "make", [nn.FeedForward, lambda n, **how: nn.MultiHeadAttention(n, 2, **how)]
)
def test_a_residual_is_added_to_the_output(make, dropout):
    """Inside the last product, or after dropout where there is any."""
    x, results = normal(2, 5, 6), []
    for residual in (None, x):
        layer = make(6, dropout=dropout, rng=rng())
        results.append(layer(ml.Tensor(x), residual=residual).data)
    np.testing.assert_allclose(results[1], results[0] + x, rtol=1e-5, atol=1e-6)
