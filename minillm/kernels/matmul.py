"""Matrix product: c[..., i, j] = Σ_k a[..., i, k] b[..., k, j].   C side: csrc/matmul.c"""

from functools import lru_cache, partial
from math import prod

import numpy as np

from minillm.kernels import _cffi
from minillm.kernels.gelu import check_approximate, gelu
from minillm.kernels.kernel import Kernel
from minillm.kernels.threads import threads


def specification(
    a: np.ndarray,
    b: np.ndarray,
    trans_a: bool = False,
    trans_b: bool = False,
    out: np.ndarray | None = None,
    *,
    add: np.ndarray | None = None,
    times: np.ndarray | None = None,
    slope: np.ndarray | None = None,
    approximate: str = "none",
) -> np.ndarray:
    """c = a b, with a (…, M, K) or, if trans_a, (…, K, M); b (…, K, N) or, if trans_b, (…, N, K).

    Leading axes broadcast. Result (…, M, N), written to `out` if given. What would be the next
    pass over c can be done while it is in the cache: c + add, add (N,) or (…, M, N); c ⊙ times,
    times (…, M, N); gelu(c), with its derivative written to slope (…, M, N), approximate as there.
    Raises: ValueError where the shapes do not fit.
    """
    lead, M, N, _ = _shapes(a, b, trans_a, trans_b, out)
    _check_finish((*lead, M, N), add, times, slope)
    c = np.matmul(a.swapaxes(-1, -2) if trans_a else a, b.swapaxes(-1, -2) if trans_b else b)
    c = _finish(c, add, times, slope, approximate, gelu.specification)
    if out is None:
        return c
    np.copyto(out, c, casting="same_kind")
    return out


def _finish(c, add, times, slope, approximate, gelu):
    """What is done to a product that was not finished while it was made."""
    if add is not None:
        c = c + add
    if times is not None:
        c = c * times
    if slope is not None:
        c, slope[...] = gelu(c, approximate)
    return c


def _joint(a, b) -> tuple[int, ...]:
    return np.broadcast_shapes(a.shape[:-2], b.shape[:-2])


def _check_finish(shape, add, times, slope) -> None:
    if add is not None and add.shape not in (shape, shape[-1:]):
        raise ValueError(f"matmul: add must have shape {shape} or {shape[-1:]}, got {add.shape}")
    for name, x in (("times", times), ("slope", slope)):
        if x is not None and x.shape != shape:
            raise ValueError(f"matmul: {name} must have shape {shape}, got {x.shape}")


def _shapes(a, b, trans_a, trans_b, out) -> tuple[tuple[int, ...], int, int, int]:
    """(leading axes, M, N, K)."""
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul: expected at least 2 axes each, got {a.shape} and {b.shape}")
    M, K = a.shape[:-3:-1] if trans_a else a.shape[-2:]
    N, K_b = b.shape[-2:] if trans_b else b.shape[:-3:-1]
    try:
        one = a.ndim == 2 or b.ndim == 2  # only one of them has leading axes, or none
        lead = (a if b.ndim == 2 else b).shape[:-2] if one else _joint(a, b)
    except ValueError:
        lead, K_b = (), -1
    if K != K_b:
        how = f"(trans_a={trans_a}, trans_b={trans_b})"
        raise ValueError(f"matmul: shapes {a.shape} and {b.shape} do not fit {how}")
    if out is not None and out.shape != (*lead, M, N):
        raise ValueError(f"matmul: out must have shape {(*lead, M, N)}, got {out.shape}")
    return lead, M, N, K


def _operand(a: np.ndarray, transposed: bool) -> tuple[np.ndarray, object, int, int]:
    """(array, pointer, row stride, column stride) in elements, one of the strides 1."""
    if a.flags.carray:
        row, col = (1, a.shape[-1]) if transposed else (a.shape[-1], 1)
        return a, _cffi.source(a), row, col
    itemsize, (row, col) = a.itemsize, a.strides[-2:]
    if (row != itemsize and col != itemsize) or row < 0 or col < 0 or row % 4 or col % 4:
        a = np.ascontiguousarray(a)
    elif not a.flags.aligned:
        a = a.copy(order="K")
    pointer, row, col = _cffi.first(a), a.strides[-2] // 4, a.strides[-1] // 4
    if col != 1 and a.shape[-2] <= 1:  # a stride that is never taken may be anything: say 1
        row, col = (1, col) if row != 1 else (row, col)
    return (a, pointer, col, row) if transposed else (a, pointer, row, col)


@lru_cache(maxsize=256)
def _offsets(shape: tuple[int, ...], strides: tuple[int, ...], lead: tuple[int, ...]) -> object:
    """A const int64_t * to where each product's operand starts, in elements: prod(lead) of them."""
    steps = [s // 4 if n > 1 else 0 for s, n in zip(strides[:-2], shape[:-2], strict=True)]
    steps = [0] * (len(lead) - len(steps)) + steps
    at = np.zeros((), np.int64)
    for n, step in zip(lead, steps, strict=True):
        at = at[..., None] + np.arange(n) * step
    return _cffi.ids(at.reshape(-1))


def _compiled(
    rung: int, parallel: bool, a, b, trans_a=False, trans_b=False, out=None, *,
    add=None, times=None, slope=None, approximate="none",
):  # fmt: skip
    lead, M, N, K = _shapes(a, b, trans_a, trans_b, out)
    shape = (*lead, M, N)
    if out is None or not _cffi.is_target(out) or _overlap(out, a, b, add, times, slope):
        c, c_to = _cffi.output(shape)
    else:
        c, c_to = out, _cffi.target(out)
    if b.ndim == 2 and a.ndim > 2 and not trans_a and a.flags.c_contiguous:
        M = prod(a.shape[:-1])
        a, lead = a.reshape(M, K), ()  # one tall product
    a, a_pointer, a_row, a_col = _operand(a, trans_a)
    b, b_pointer, b_row, b_col = _operand(b, trans_b)
    a_at = b_at = _cffi.NULL
    if lead:
        a_at, b_at = _offsets(a.shape, a.strides, lead), _offsets(b.shape, b.strides, lead)
    finish, left = NOTHING, ()
    if add is not None or times is not None or slope is not None:
        _check_finish(shape, add, times, slope)
        if rung == PACKED and (slope is None or slope.flags.carray):
            row = 0 if add is None or add.ndim < len(shape) else N
            finish = _cffi.source(add), row, _cffi.source(times), *_slope(slope, approximate)
        else:
            left = add, times, slope, approximate, gelu
    _cffi.lib.ml_matmul(
        rung, prod(lead), M, N, K, a_pointer, a_at, a_row, a_col, b_pointer, b_at, b_row, b_col,
        c_to, *finish, threads() if parallel else 1,
    )  # fmt: skip
    if left:
        c = _finish(c, *left)
    if out is not None and c is not out:
        np.copyto(out, c, casting="same_kind")
        return out
    return c


PACKED = 3  # the rung in C that finishes a tile while it is in L1
NOTHING = (_cffi.NULL, 0, _cffi.NULL, _cffi.NULL, 0)  # add, its row stride, times, slope, tanh form


def _slope(slope, approximate) -> tuple[object, bool]:
    check_approximate(approximate)
    return (_cffi.NULL if slope is None else _cffi.target(slope)), approximate == "tanh"


def _overlap(out: np.ndarray, *inputs: np.ndarray | None) -> bool:
    return any(x is not None and np.may_share_memory(out, x) for x in inputs)


def flops(a, b, trans_a=False, trans_b=False, out=None, add=None, times=None, slope=None, **_):
    lead, M, N, K = _shapes(a, b, trans_a, trans_b, out)
    finish = (add is not None) + (times is not None) + (45 if slope is not None else 0)
    return prod(lead) * M * N * (2 * K + finish)


def traffic(a, b, trans_a=False, trans_b=False, out=None, add=None, times=None, slope=None, **_):
    lead, M, N, _ = _shapes(a, b, trans_a, trans_b, out)
    more = sum(x.nbytes for x in (add, times, slope) if x is not None)
    return a.nbytes + b.nbytes + a.itemsize * prod(lead) * M * N + more


matmul = Kernel(
    "matmul",
    specification,
    {
        "naive": partial(_compiled, 0, False),
        "reordered": partial(_compiled, 1, False),
        "tiled": partial(_compiled, 2, False),
        "simd": partial(_compiled, PACKED, False),
        "parallel": partial(_compiled, PACKED, True),
    },
    flops,
    traffic,
    floats=2,
)
