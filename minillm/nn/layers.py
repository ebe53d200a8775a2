"""The layers of a transformer. Weights start as in GPT-2: N(0, 0.02), biases 0, gains 1.

Every layer takes rng, the generator of its weights: fresh entropy unless given.

Source: Vaswani et al. 2017, arXiv:1706.03762; Radford et al. 2019 (GPT-2).
"""

from collections.abc import Callable

import numpy as np

from minillm import functional as F
from minillm import kernels
from minillm.autograd import Tensor
from minillm.nn.module import Module, Parameter

INIT_STD = 0.02


def _normal(rng: np.random.Generator | None, shape: tuple[int, ...], std: float) -> np.ndarray:
    rng = np.random.default_rng() if rng is None else rng
    weight = kernels.empty(shape, np.dtype(np.float32))
    rng.standard_normal(out=weight, dtype=np.float32)
    weight *= np.float32(std)
    return weight


class Linear(Module):
    """y = x Wᵀ + b.   x: (…, in) → (…, out); weight: (out, in), bias: (out,)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        rng: np.random.Generator | None = None,
        std: float = INIT_STD,
    ):
        self.weight = Parameter(_normal(rng, (out_features, in_features), std))
        self.bias = Parameter(np.zeros(out_features, np.float32)) if bias else None

    def forward(self, x, residual=None):
        return F.linear(x, self.weight, self.bias, residual)


class Embedding(Module):
    """Row ids[i] of the table.   ids: (…) → (…, C); weight: (V, C)."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rng: np.random.Generator | None = None,
        std: float = INIT_STD,
    ):
        self.weight = Parameter(_normal(rng, (num_embeddings, embedding_dim), std))

    def forward(self, ids):
        return F.embedding(ids, self.weight)


class LayerNorm(Module):
    """(x - mean) / √(var + eps) · weight + bias over the last axis.   x: (…, C) → (…, C)."""

    def __init__(self, normalized_shape: int, eps: float = 1e-5, bias: bool = True):
        self.shape, self.eps = (normalized_shape,), eps
        self.weight = Parameter(np.ones(normalized_shape, np.float32))
        self.bias = Parameter(np.zeros(normalized_shape, np.float32)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class Dropout(Module):
    """In training, zero each element with probability p and scale the others by 1 / (1 - p)."""

    def __init__(self, p: float = 0.5, rng: np.random.Generator | None = None):
        self.p, self.rng = p, rng

    def active(self) -> bool:
        return self.training and self.p > 0

    def forward(self, x):
        return F.dropout(x, self.p, True, self.rng) if self.active() else x


def _drop_and_add(dropout: Dropout, product: Callable, residual):
    """residual + dropout(product(None)); without dropout product(residual), in the same pass."""
    if not dropout.active():
        return product(residual)
    y = dropout(product(None))
    return y if residual is None else residual + y


class MultiHeadAttention(Module):
    """Self-attention with n_head heads of C / n_head channels.   x: (B, T, C) → (B, T, C).

    c_attn gives queries, keys and values side by side, c_proj mixes the heads. proj_std: the spread
    of c_proj's weights, scaled down in a deep residual stack. Dropout falls on the output only: the
    probabilities are never in memory. Raises: ValueError where n_head does not divide C.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        dropout: float = 0.0,
        bias: bool = True,
        is_causal: bool = True,
        rng: np.random.Generator | None = None,
        proj_std: float = INIT_STD,
    ):
        if n_embd % n_head:
            raise ValueError(f"attention: n_head {n_head} does not divide n_embd {n_embd}")
        self.n_head, self.is_causal = n_head, is_causal
        self.c_attn = Linear(n_embd, 3 * n_embd, bias, rng)
        self.c_proj = Linear(n_embd, n_embd, bias, rng, proj_std)
        self.dropout = Dropout(dropout, rng)

    def forward(self, x, cache: "KeyValueCache | None" = None, residual=None):
        qkv = self.c_attn(x)  # (B, T, 3C)
        if cache is None:
            y = F.self_attention(qkv, self.n_head, self.is_causal)
        else:
            y = self._attend_to_past(qkv, cache)
        return _drop_and_add(self.dropout, lambda r: self.c_proj(y, r), residual)  # (B, T, C)

    def _attend_to_past(self, qkv: Tensor, cache: "KeyValueCache") -> Tensor:
        B, T, C3 = qkv.shape
        q, k, v = qkv.data.reshape(B, T, 3, self.n_head, -1).transpose(2, 0, 3, 1, 4)
        k, v = cache.append(k, v)  # (B, n_head, S, D), S tokens so far
        mask = None if T == 1 else np.tri(T, k.shape[2], k.shape[2] - T, dtype=bool)
        if T == k.shape[2]:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return F.reshape(F.transpose(y, 1, 2), (B, T, C3 // 3))


class KeyValueCache:
    """The keys and values of the tokens so far, for one attention layer and up to `size` tokens."""

    def __init__(self, size: int):
        self.size, self.length = size, 0
        self.keys = self.values = None

    def append(self, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add k, v: (B, n_head, T, D); returns all so far, (B, n_head, S, D)."""
        B, H, T, D = k.shape
        if self.keys is None:
            self.keys, self.values = np.empty((2, B, H, self.size, D), k.dtype)
        end = self.length + T
        self.keys[:, :, self.length : end], self.values[:, :, self.length : end] = k, v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class FeedForward(Module):
    """c_proj(gelu(c_fc(x))), four times as wide inside.   x: (…, C) → (…, C)."""

    def __init__(
        self,
        n_embd: int,
        dropout: float = 0.0,
        bias: bool = True,
        rng: np.random.Generator | None = None,
        proj_std: float = INIT_STD,
    ):
        self.c_fc = Linear(n_embd, 4 * n_embd, bias, rng)
        self.c_proj = Linear(4 * n_embd, n_embd, bias, rng, proj_std)
        self.dropout = Dropout(dropout, rng)

    def forward(self, x, residual=None):
        def product(residual):
            fc, proj = self.c_fc, self.c_proj
            return F.feed_forward(x, fc.weight, fc.bias, proj.weight, proj.bias, residual)

        return _drop_and_add(self.dropout, product, residual)
