"""One token more through a whole GPT in one call.   C side: csrc/decode.c"""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from minillm.kernels import _cffi
from minillm.kernels.attention import attention
from minillm.kernels.gelu import gelu
from minillm.kernels.kernel import Kernel, rungs
from minillm.kernels.layer_norm import layer_norm


@dataclass(eq=False)
class Decoder:
    """The weights of a GPT as decode takes them, for one text at a time.

    blocks: for each the weight and the bias (or None) of ln_1, c_attn, c_proj, ln_2, c_fc and the
    second c_proj; last: the weight and bias of ln_f, and the head (V, C).
    """

    blocks: list[tuple[np.ndarray | None, ...]]
    last: tuple[np.ndarray | None, ...]
    n_head: int
    bound: "_Bound | None" = None


def specification(
    x: np.ndarray,
    decoder: Decoder,
    caches: list[tuple[np.ndarray, np.ndarray]],
    length: int,
    eps: float = 1e-5,
) -> np.ndarray:
    """For each block x += proj(attention(qkv(norm x))), x += proj(gelu(fc(norm x))); head(norm x).

    x: (B, C), one embedded token a sequence; caches: the keys and values of each block,
    (B, n_head, size, D), of which `length` tokens are there: this token's are added.
    Returns: the logits (B, V).
    """
    B, C = x.shape
    _check(x, decoder, caches, length)
    for weights, (keys, values) in zip(decoder.blocks, caches, strict=True):
        g1, b1, qkv, qkv_b, proj, proj_b, g2, b2, fc, fc_b, out, out_b = weights
        heads = _linear(_norm(x, g1, b1, eps), qkv, qkv_b).reshape(B, 3, decoder.n_head, -1)
        keys[:, :, length], values[:, :, length] = heads[:, 1], heads[:, 2]
        k, v = keys[:, :, : length + 1], values[:, :, : length + 1]
        q, scale = heads[:, 0][:, :, None], 1 / sqrt(C / decoder.n_head)
        y, _ = attention.specification(q, k, v, False, scale)
        x = x + _linear(y.reshape(B, C), proj, proj_b)
        h, _ = gelu.specification(_linear(_norm(x, g2, b2, eps), fc, fc_b))
        x = x + _linear(h, out, out_b)
    gain, bias, head = decoder.last
    return _linear(_norm(x, gain, bias, eps), head, None)


def _norm(x, weight, bias, eps):
    return layer_norm.specification(x, weight, bias, eps)[0]


def _linear(x, weight, bias):
    y = np.matmul(x, weight.T)
    return y if bias is None else y + bias


def _check(x, decoder, caches, length) -> None:
    if x.ndim != 2 or len(caches) != len(decoder.blocks):
        raise ValueError(
            f"decode: expected x (B, C) and {len(decoder.blocks)} caches, got {x.shape} and "
            f"{len(caches)}"
        )
    (B, C), H = x.shape, decoder.n_head
    for cache in caches:
        for a in cache:
            if a.shape[:2] != (B, H) or a.shape[3] * H != C or not length < a.shape[2]:
                raise ValueError(
                    f"decode: a cache {a.shape} does not fit x {x.shape}, {H} heads and one token "
                    f"after {length}"
                )


class _Bound:
    """What every call with these caches needs, made once: it would cost as much as the work."""

    def __init__(self, decoder: Decoder, caches: list, shape: tuple[int, int], threads: int):
        (B, C), H, (V, _) = shape, decoder.blocks[0][8].shape[0], decoder.last[2].shape
        self.caches, self.threads, self.size = caches, threads, caches[0][0].shape[2]
        self.x, self.logits = np.empty(shape, np.float32), np.empty((B, V), np.float32)
        work = np.empty(_cffi.lib.ml_decode_work(B, C, H, self.size, threads), np.float32)
        weights = [_cffi.source(w) for block in (*decoder.blocks, decoder.last) for w in block]
        pairs = [_cffi.target(a) for cache in caches for a in cache]
        self.keep = weights, pairs  # a float *[] does not
        self.sizes = len(caches), B, C, H, V, decoder.n_head, self.size
        self.pointers = (
            *(_cffi.ffi.new("float *[]", each) for each in self.keep),
            *map(_cffi.target, (self.x, self.logits, work)),
        )

    def fits(self, x: np.ndarray, caches: list, length: int, threads: int) -> bool:
        known = self.caches is caches and self.x.shape == x.shape
        return known and length < self.size and threads <= self.threads


def _compiled(threads, x, decoder, caches, length, eps=1e-5):
    bound, n = decoder.bound, threads()
    if bound is None or not bound.fits(x, caches, length, n):
        _check(x, decoder, caches, length)
        bound = decoder.bound = _Bound(decoder, caches, x.shape, n)
    bound.x[...] = x
    _cffi.lib.ml_decode(*bound.sizes, length, eps, *bound.pointers, n)
    return bound.logits.copy()


MATRICES = (2, 4, 8, 10)  # of the twelve arrays of a block


def _weights(decoder) -> list[np.ndarray]:
    blocks = [block[i] for block in decoder.blocks for i in MATRICES]
    return [*blocks, decoder.last[2]]


def _flops(x, decoder, caches, length, eps=1e-5) -> int:
    scores = len(caches) * (length + 1) * (4 * x.shape[1] + 25 * decoder.n_head)
    return len(x) * (2 * sum(w.size for w in _weights(decoder)) + scores)


def _bytes(x, decoder, caches, length, eps=1e-5) -> int:
    seen = 2 * len(caches) * (length + 1) * x.nbytes
    return sum(w.nbytes for w in _weights(decoder)) + seen


decode = Kernel("decode", specification, rungs(_compiled), _flops, _bytes)
