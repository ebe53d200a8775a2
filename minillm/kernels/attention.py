"""Scaled dot-product attention, forward and backward; (T, T) is never stored.

C side: csrc/attention.c

Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1; Dao et al. 2022, arXiv:2205.14135.
"""

import numpy as np

from minillm.kernels import _cffi
from minillm.kernels.kernel import Kernel, rungs


def _probabilities(q, k, causal, scale, lse=None) -> tuple[np.ndarray, np.ndarray]:
    """(softmax(scale q kᵀ), its lse); with lse given, from that."""
    scores = np.matmul(q, k.swapaxes(-1, -2)) * q.dtype.type(scale)
    seen = np.tri(*scores.shape[-2:], dtype=bool) if causal else np.True_
    with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
        if lse is None:
            top = np.max(scores, -1, keepdims=True, where=seen, initial=-np.inf)
            total = np.sum(np.exp(scores - top), -1, keepdims=True, where=seen)
            lse = (top + np.log(total))[..., 0]
        return np.where(seen, np.exp(scores - lse[..., None]), scores.dtype.type(0)), lse


def specification(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """o = softmax(scale q kᵀ) v; causal: query t sees keys 0 … t.

    q: (B, H, T, D), k, v: (B, H, S, D) → o (B, H, T, D), lse (B, H, T) the rows' log Σ exp.
    """
    _check(q, k, v, scale)
    p, lse = _probabilities(q, k, causal, scale)
    return np.matmul(p, v), lse


def vjp_specification(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    o: np.ndarray,
    do: np.ndarray,
    lse: np.ndarray,
    causal: bool,
    scale: float,
    into: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ds = p ⊙ (do vᵀ - rowsum(do ⊙ o)):  dq = scale ds k, dk = scale dsᵀ q, dv = pᵀ do.

    The results have the shapes of q, k and v, and are written to `into` if given.
    """
    _check_vjp(q, k, v, o, do, lse, scale)
    p, _ = _probabilities(q, k, causal, scale, lse)
    dp = np.matmul(do, v.swapaxes(-1, -2))
    ds = p * (dp - (do * o).sum(-1, keepdims=True)) * q.dtype.type(scale)
    grads = np.matmul(ds, k), np.matmul(ds.swapaxes(-1, -2), q), np.matmul(p.swapaxes(-1, -2), do)
    if into is None:
        return grads
    for to, grad in zip(into, grads, strict=True):
        to[...] = grad
    return into


def _check(q, k, v, scale) -> None:
    fits = q.ndim == k.ndim == 4 and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3]
    if not (fits and k.shape == v.shape):
        raise ValueError(
            f"attention: q {q.shape} must be (B, H, T, D), k {k.shape} and v {v.shape} (B, H, S, D)"
        )
    if not scale > 0:
        raise ValueError(f"attention: scale must be positive, got {scale}")


def _check_vjp(q, k, v, o, do, lse, scale) -> None:
    _check(q, k, v, scale)
    shapes = (o.shape, do.shape, lse.shape)
    if shapes != (q.shape, q.shape, q.shape[:3]):
        raise ValueError(f"attention_vjp: q {q.shape} does not fit o, do and lse {shapes}")


def _rows(a: np.ndarray) -> np.ndarray:
    """a itself if its last axis is contiguous (the kernel takes any other strides), else a copy."""
    return a if a.strides[-1] == a.itemsize and a.flags.aligned else np.require(a, None, "CA")


def _arguments(*arrays: np.ndarray) -> tuple[list, list[int]]:
    """(pointers, all their (batch, head, row) strides in elements)."""
    return [_cffi.first(a) for a in arrays], [s // 4 for a in arrays for s in a.strides[:3]]


def heads_last(B: int, H: int, T: int, D: int) -> np.ndarray:
    """An empty (B, H, T, D) whose memory is (B, T, H, D): heads join to (B, T, H·D) for free."""
    return _cffi.output((B, T, H, D))[0].transpose(0, 2, 1, 3)


def _compiled(threads, q, k, v, causal, scale):
    _check(q, k, v, scale)
    (B, H, T, D), S = q.shape, k.shape[-2]
    q, k, v = _rows(q), _rows(k), _rows(v)
    o, lse = heads_last(B, H, T, D), np.empty((B, H, T), np.float32)
    pointers, strides = _arguments(q, k, v, o)
    _cffi.lib.ml_attention(
        B, H, T, S, D, scale, causal, *pointers, strides, _cffi.target(lse), threads()
    )
    return o, lse


def _compiled_vjp(threads, q, k, v, o, do, lse, causal, scale, into=None):
    _check_vjp(q, k, v, o, do, lse, scale)
    (B, H, T, D), S = q.shape, k.shape[-2]
    if into is None:
        into = heads_last(B, H, T, D), heads_last(B, H, S, D), heads_last(B, H, S, D)
    arrays = [_rows(a) for a in (q, k, v, o, do)]
    (q, k, v, o, do, dq, dk, dv), strides = _arguments(*arrays, *into)
    _cffi.lib.ml_attention_vjp(
        B,
        H,
        T,
        S,
        D,
        scale,
        causal,
        q,
        k,
        v,
        o,
        do,
        _cffi.source(lse),
        dq,
        dk,
        dv,
        strides,
        threads(),
    )
    return into


def _scores(q, k, causal) -> int:
    """How many scores count: T S a head, or the causal part of them."""
    (*lead, T, _), S = q.shape, k.shape[-2]
    full = min(T, S)
    pairs = full * (full + 1) // 2 + (T - full) * S if causal else T * S
    return int(np.prod(lead)) * pairs


def _flops(q, k, v, causal, scale) -> int:
    return _scores(q, k, causal) * (4 * q.shape[-1] + 25)


def _vjp_flops(q, k, v, o, do, lse, causal, scale, into=None) -> int:
    return _scores(q, k, causal) * (10 * q.shape[-1] + 25)


attention = Kernel(
    "attention",
    specification,
    rungs(_compiled),
    flops=_flops,
    bytes=lambda q, k, v, *rest: 2 * q.nbytes + k.nbytes + v.nbytes,
    floats=3,
)
attention_vjp = Kernel(
    "attention_vjp",
    vjp_specification,
    rungs(_compiled_vjp),
    flops=_vjp_flops,
    bytes=lambda q, k, v, *rest, into=None: 4 * q.nbytes + 2 * (k.nbytes + v.nbytes),
    floats=6,
)
