"""Every differentiable operation: its value and its vector-Jacobian product, side by side.

Names and argument order are PyTorch's. Each function takes Tensors or arrays and returns a Tensor;
inside, they are arrays. dy is the gradient of the loss with respect to the result.
"""

import builtins
from collections import namedtuple
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from math import sqrt as scalar_sqrt

import numpy as np

from minillm import kernels
from minillm.autograd import Adding, Tensor, op
from minillm.kernels.kernel import check_indices


def _unbroadcast(g: np.ndarray, like: object) -> np.ndarray | None:
    """Sum g over the axes along which `like` was broadcast; None for a Python number."""
    shape = getattr(like, "shape", None)
    if shape is None or g.shape == shape:
        return None if shape is None else g
    g = g.sum(tuple(range(g.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(stretched, keepdims=True)


def _axes(dim: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    if dim is None:
        return tuple(range(ndim))
    dims = (dim,) if isinstance(dim, int | np.integer) else tuple(dim)
    for d in dims:
        if not -ndim <= d < ndim:
            raise ValueError(f"axis {d} does not exist in an array of {ndim} axes")
    return tuple(d % ndim for d in dims)


# Arithmetic, element by element, with broadcasting.


@op
def add(x, y):
    """x + y."""
    return x + y, lambda dy: (_unbroadcast(dy, x), _unbroadcast(dy, y))


@op
def sub(x, y):
    """x - y."""
    return x - y, lambda dy: (_unbroadcast(dy, x), lambda: _unbroadcast(-dy, y))


@op
def mul(x, y):
    """x · y."""
    return x * y, lambda dy: (lambda: _unbroadcast(dy * y, x), lambda: _unbroadcast(dy * x, y))


@op
def div(x, y):
    """x / y."""
    z = x / y
    return z, lambda dy: (
        lambda: _unbroadcast(dy / y, x),
        lambda: _unbroadcast(-dy * z / y, y),
    )


@op
def pow(x, y):
    """x^y. The gradient for y takes x^y ln x as 0 where x is not positive."""
    z = x**y

    def vjp(dy):
        def for_exponent():
            base = np.asarray(x, z.dtype)
            log = np.log(base, where=base > 0, out=np.zeros_like(base))
            return _unbroadcast(dy * z * log, y)

        return lambda: _unbroadcast(dy * y * x ** (y - (y != 0)), x), for_exponent  # d x⁰ = 0

    return z, vjp


@op
def neg(x):
    """-x."""
    return -x, lambda dy: (-dy,)


@op
def exp(x):
    """e^x."""
    y = np.exp(x)
    return y, lambda dy: (dy * y,)


@op
def log(x):
    """ln x."""
    return np.log(x), lambda dy: (dy / x,)


@op
def sqrt(x):
    """√x."""
    y = np.sqrt(x)
    return y, lambda dy: (dy / (2 * y),)


@op
def tanh(x):
    """tanh x."""
    y = np.tanh(x)
    return y, lambda dy: (dy * (1 - y * y),)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), by tanh, which cannot overflow."""
    return (np.tanh(x / 2) + 1) / 2


@op
def sigmoid(x):
    """1 / (1 + e^-x)."""
    y = _sigmoid(x)
    return y, lambda dy: (dy * y * (1 - y),)


@op
def erf(x):
    """2/√π ∫₀ˣ exp(-t²) dt."""
    if x.dtype.kind != "f":
        raise TypeError(f"erf: expected a float array, got {x.dtype}")
    c = x.dtype.type(2 / scalar_sqrt(np.pi))
    return kernels.erf(x), lambda dy: (dy * c * np.exp(-x * x),)


# Activations.


@op
def relu(x):
    """max(x, 0); a NaN stays."""
    return np.maximum(x, 0), lambda dy: (dy * (x > 0),)


@op
def gelu(x, approximate: str = "none"):
    """x Φ(x); approximate: "none" (exact) or "tanh".   Source: arXiv:1606.08415."""
    y, slope = kernels.gelu(x, approximate)
    return y, lambda dy: (kernels.gelu_vjp(slope, dy),)


@op
def silu(x):
    """x σ(x)."""
    s = _sigmoid(x)
    return x * s, lambda dy: (dy * (s + x * s * (1 - s)),)


@op
def dropout(x, p: float = 0.5, training: bool = True, rng: np.random.Generator | None = None):
    """x ⊙ mask / (1 - p) with P(mask = 0) = p; x itself when not training.

    Raises: ValueError without an rng when there is something to draw, or for p outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must be in [0, 1], got {p}")
    if not training or p == 0:
        return x, lambda dy: (dy,)
    if rng is None:
        raise ValueError("dropout: training with p > 0 needs rng=numpy.random.default_rng(seed)")
    keep = rng.random(x.shape, np.float32) >= p
    scale = keep * x.dtype.type(1 / (1 - p) if p < 1 else 0)
    return x * scale, lambda dy: (dy * scale,)


# Products.


@op
def matmul(x, y):
    """x y over the last two axes: (…, M, K) (…, K, N) → (…, M, N); vectors as rows or columns."""
    a = x[None, :] if x.ndim == 1 else x
    b = y[:, None] if y.ndim == 1 else y
    c = kernels.matmul(a, b)
    shape = c.shape[: -2 if x.ndim == 1 else -1] + (() if y.ndim == 1 else c.shape[-1:])
    if x.ndim == 1 and y.ndim > 1:
        shape = c.shape[:-2] + c.shape[-1:]

    def vjp(dy):  # dx = dy yᵀ, dy = xᵀ dy
        dc = dy.reshape(c.shape)
        return (
            lambda: _unbroadcast(kernels.matmul(dc, b, trans_b=True), a).reshape(x.shape),
            lambda: _unbroadcast(kernels.matmul(a, dc, trans_a=True), b).reshape(y.shape),
        )

    return c.reshape(shape), vjp


@op
def linear(x, weight, bias=None, residual=None):
    """x Wᵀ + b.   x: (…, in), weight: (out, in), bias: (out,) → (…, out).

    residual: (…, out), added as well, in the same pass over memory.
    """
    _check_linear("linear", x, weight, bias)

    def vjp(dy):  # dx = dy W, dW = dyᵀ x, db = Σ dy
        return lambda: _times(dy, weight), lambda: _outer(dy, x), lambda: _rows(dy).sum(0), dy

    return _times(x, weight, bias, residual, trans_b=True), vjp


@op
def feed_forward(x, fc, fc_bias, proj, proj_bias, residual=None, approximate: str = "none"):
    """gelu(x W₁ᵀ + b₁) W₂ᵀ + b₂ (+ residual): two linears, with the GELU inside the products.

    x: (…, C), fc: (H, C), proj: (C', H), the biases (H,) and (C',) or None → (…, C'). The GELU is
    taken of each tile of the first product before it leaves the cache, and backward multiplies by
    its slope in the same way.
    """
    _check_linear("feed_forward", x, fc, fc_bias)
    slope = kernels.empty((*x.shape[:-1], fc.shape[0]), np.result_type(x, fc))
    h = _times(x, fc, fc_bias, trans_b=True, slope=slope, approximate=approximate)
    _check_linear("feed_forward", h, proj, proj_bias)

    def vjp(dy):  # with z = x W₁ᵀ + b₁:  dz = dy W₂ ⊙ gelu'(z); the rest as in linear
        dz = _times(dy, proj, times=slope)
        return (
            lambda: _times(dz, fc),
            lambda: _outer(dz, x),
            lambda: _rows(dz).sum(0),
            lambda: _outer(dy, h),
            lambda: _rows(dy).sum(0),
            dy,
        )

    return _times(h, proj, proj_bias, residual, trans_b=True), vjp


def _check_linear(name, x, weight, bias) -> None:
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:]:
        raise ValueError(f"{name}: input {x.shape} and weight {weight.shape} do not fit")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{name}: bias must have shape {weight.shape[:1]}, got {bias.shape}")


def _rows(a: np.ndarray) -> np.ndarray:
    return a.reshape(-1, a.shape[-1])


def _outer(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Σ over all rows of the outer products dy xᵀ.   dy: (…, out), x: (…, in) → (out, in)."""
    return kernels.matmul(_rows(dy), _rows(x), trans_a=True)


def _times(x, weight, bias=None, residual=None, **how) -> np.ndarray:
    """kernels.matmul of (…, K) and a matrix; + bias (N,) + residual (…, N)."""
    if x.ndim == 1:
        how = {k: v[None] if k in ("times", "slope") else v for k, v in how.items()}
        residual = None if residual is None else residual[None]
        return _times(x[None], weight, bias, residual, **how)[0]
    add = bias if residual is None else residual if bias is None else residual + bias
    return kernels.matmul(x, weight, add=add, **how)


# Reductions.


@op
def sum(x, dim=None, keepdim: bool = False):
    """Σ x over dim: an axis, several, or all of them."""
    axes = _axes(dim, x.ndim)
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    return x.sum(axes, keepdims=keepdim), lambda dy: (np.broadcast_to(dy.reshape(kept), x.shape),)


@op
def mean(x, dim=None, keepdim: bool = False):
    """Σ x / n over dim."""
    axes = _axes(dim, x.ndim)
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    n = prod(x.shape[i] for i in axes)
    y = x.mean(axes, keepdims=keepdim)
    return y, lambda dy: (np.broadcast_to(dy.reshape(kept) / n, x.shape),)


@op
def var(x, dim=None, correction: int = 1, keepdim: bool = False):
    """Σ (x - mean)² / (n - correction) over dim."""
    axes = _axes(dim, x.ndim)
    n = prod(x.shape[i] for i in axes) - correction
    centred = x - x.mean(axes, keepdims=True)
    y = (centred * centred).sum(axes, keepdims=True) / n
    kept = y.shape
    if not keepdim:
        y = y.reshape(tuple(s for i, s in enumerate(x.shape) if i not in axes))
    return y, lambda dy: (dy.reshape(kept) * (2 / n) * centred,)


Max = namedtuple("Max", "values indices")


def max(x, dim: int | None = None, keepdim: bool = False):
    """The largest element; with dim, Max(values, indices) along that axis.

    The gradient goes to the index returned; without dim, in equal parts to every largest element.
    """
    if dim is None:
        return _max_of_all(x)
    data = x.data if isinstance(x, Tensor) else x
    indices = np.expand_dims(data.argmax(dim), dim)
    values = gather(x, dim, indices)
    if keepdim:
        return Max(values, indices)
    shape = np.delete(indices.shape, dim)
    return Max(reshape(values, tuple(shape)), indices.reshape(shape))


@op
def _max_of_all(x):
    y = x.max()
    where_max = x == y
    return y, lambda dy: (dy * where_max / where_max.sum(dtype=x.dtype),)


# Shapes and indices.


@op
def reshape(x, shape):
    """The same elements in C order; one entry of shape may be -1."""
    return x.reshape(shape), lambda dy: (dy.reshape(x.shape),)


@op
def permute(x, dims):
    """Axis i of the result is axis dims[i] of x."""
    return x.transpose(dims), lambda dy: (dy.transpose(np.argsort([d % x.ndim for d in dims])),)


@op
def transpose(x, dim0: int, dim1: int):
    """Exchange two axes."""
    return x.swapaxes(dim0, dim1), lambda dy: (dy.swapaxes(dim0, dim1),)


@op
def expand(x, shape):
    """Repeat along axes of length 1, without copying; -1 keeps an axis."""
    lead = len(shape) - x.ndim
    full = tuple(x.shape[i - lead] if n == -1 else n for i, n in enumerate(shape))
    return np.broadcast_to(x, full), lambda dy: (_unbroadcast(dy, x),)


def cat(tensors: Sequence, dim: int = 0):
    """Join along an existing axis."""
    return _cat(dim, *tensors)


@op
def _cat(dim, *arrays):
    ends = np.cumsum([a.shape[dim] for a in arrays])[:-1]
    return np.concatenate(arrays, dim), lambda dy: (None, *np.split(dy, ends, dim))


def stack(tensors: Sequence, dim: int = 0):
    """Join along a new axis."""
    return _stack(dim, *tensors)


@op
def _stack(dim, *arrays):
    return np.stack(arrays, dim), lambda dy: (None, *np.moveaxis(dy, dim, 0))


def split(x, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Cut along an axis into pieces of one size (the last may be smaller) or of the given sizes."""
    n, size = x.shape[dim], split_size_or_sections
    if isinstance(size, int) and size < 1:
        raise ValueError(f"split: the size must be at least 1, got {size}")
    sizes = (
        [size] * (n // size) + ([n % size] if n % size else []) if isinstance(size, int) else size
    )
    if builtins.sum(sizes) != n:
        raise ValueError(f"split: sizes {list(sizes)} do not add up to {n}")
    starts = np.cumsum([0, *sizes])
    before = (slice(None),) * (dim % x.ndim)
    return tuple(getitem(x, (*before, slice(int(a), int(b)))) for a, b in pairwise(starts))


def _plain_index(index) -> object:
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(p.data if isinstance(p, Tensor) else p for p in parts)
    return parts if isinstance(index, tuple) else parts[0]


def _is_basic(index) -> bool:
    """Integers and slices pick each element once; arrays may pick one several times."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(p is None or p is Ellipsis or isinstance(p, int | np.integer | slice) for p in parts)


def getitem(x, index):
    """x[index] for integers, slices, None, … and integer or boolean arrays; repeats accumulate."""
    return _getitem(x, _plain_index(index))


@op
def _getitem(x, index):
    def vjp(dy):
        dx = np.zeros(x.shape, dy.dtype)
        if _is_basic(index):
            dx[index] = dy
        else:
            np.add.at(dx, index, dy)
        return (dx,)

    return x[index], vjp


@op
def where(condition, x, y):
    """x where condition holds, else y."""
    condition = np.asarray(condition, bool)
    zero = 0.0

    def vjp(dy):
        dx, dz = np.where(condition, dy, zero), np.where(condition, zero, dy)
        return None, _unbroadcast(dx.astype(dy.dtype), x), _unbroadcast(dz.astype(dy.dtype), y)

    return np.where(condition, x, y), vjp


@op
def masked_fill(x, mask, value: float):
    """value where mask holds, else x."""
    mask = np.asarray(mask, bool)
    return (
        np.where(mask, x.dtype.type(value), x),
        lambda dy: (_unbroadcast(np.where(mask, dy.dtype.type(0), dy), x),),
    )


@op
def gather(x, dim: int, index):
    """y[i, j, …] = x[…, index[i, j, …], …] with the index in place of axis dim."""
    index = np.asarray(index)

    def vjp(dy):
        dx = np.zeros(x.shape, dy.dtype)
        grid = list(np.indices(index.shape, sparse=True))
        grid[dim] = index
        np.add.at(dx, tuple(grid), dy)
        return (dx,)

    grid = list(np.indices(index.shape, sparse=True))
    grid[dim] = index
    return x[tuple(grid)], vjp


@op
def embedding(ids, weight):
    """Row ids[i] of weight for each i.   ids: (…) integers, weight: (V, C) → (…, C)."""
    ids = _integers("embedding: ids", ids)
    V = weight.shape[0]
    check_indices("embedding: ids", ids, V)
    return weight[ids], Adding(
        lambda dy, dw: (None, kernels.embedding_vjp(dy, ids, V, dw)), 1, True
    )


# Normalisation.


def softmax(x, dim: int = -1):
    """exp(x_i) / Σ_j exp(x_j) along dim."""
    return _along_last(_softmax, x, dim)


def log_softmax(x, dim: int = -1):
    """x_i - log Σ_j exp(x_j) along dim."""
    return _along_last(_log_softmax, x, dim)


def _along_last(function, x, dim: int):
    if dim in (-1, x.ndim - 1):
        return function(x)
    return transpose(function(transpose(x, dim, -1)), dim, -1)


@op
def _softmax(x):
    y = kernels.softmax(x)
    return y, lambda dy: (kernels.softmax_vjp(y, dy),)


@op
def _log_softmax(x):
    with np.errstate(invalid="ignore"):  # a row of -inf, or with +inf, is NaN
        y = x - x.max(-1, keepdims=True)
        y = y - np.log(np.exp(y).sum(-1, keepdims=True))
    return y, lambda dy: (dy - np.exp(y) * dy.sum(-1, keepdims=True),)


def layer_norm(x, normalized_shape, weight=None, bias=None, eps: float = 1e-5):
    """(x - mean) / √(var + eps) · weight + bias over the last axes, those of normalized_shape."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if x.shape[x.ndim - len(shape) :] != shape:
        raise ValueError(f"layer_norm: input {x.shape} does not end in {shape}")
    if len(shape) == 1:
        return _layer_norm(x, weight, bias, eps)
    for name, w in (("weight", weight), ("bias", bias)):
        if w is not None and w.shape != shape:
            raise ValueError(f"layer_norm: {name} must have shape {shape}, got {w.shape}")
    flat = [None if w is None else reshape(w, -1) for w in (weight, bias)]
    return reshape(_layer_norm(reshape(x, (-1, prod(shape))), *flat, eps), x.shape)


@op
def _layer_norm(x, weight, bias, eps):
    y, mean, rstd = kernels.layer_norm(x, weight, bias, eps)
    return y, Adding(lambda dy, dx: kernels.layer_norm_vjp(dy, x, weight, mean, rstd, dx))


# Attention.


def scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal: bool = False, scale=None):
    """softmax(q kᵀ · scale) v, scale 1/√D unless given.

    q: (…, T, D), k: (…, S, D), v: (…, S, D) → (…, T, D). attn_mask: (…, T, S), booleans (True: may
    look) or floats to add. is_causal: query t sees keys 0 … t. A query that sees nothing gets 0.
    Raises: ValueError for shapes that do not fit, or a mask together with is_causal.
    """
    if attn_mask is not None and is_causal:
        raise ValueError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    if (
        q.shape[-1] != k.shape[-1]
        or k.shape[-2] != v.shape[-2]
        or not (q.shape[:-2] == k.shape[:-2] == v.shape[:-2])
    ):
        raise ValueError(f"attention: shapes {q.shape}, {k.shape}, {v.shape} do not fit")
    if attn_mask is not None:
        mask = attn_mask.data if isinstance(attn_mask, Tensor) else np.asarray(attn_mask)
        scores = (*q.shape[:-1], k.shape[-2])
        if np.broadcast_shapes(scores, mask.shape) != scores:
            raise ValueError(f"attention: mask {mask.shape} does not broadcast to {scores}")
    scale = 1 / scalar_sqrt(q.shape[-1]) if scale is None else scale
    if scale <= 0:  # the kernel takes the largest score before it scales
        q, scale = mul(q, float(scale)), 1.0
    if attn_mask is not None or v.shape != k.shape:
        if is_causal:
            attn_mask = np.tri(q.shape[-2], k.shape[-2], dtype=bool)
        return _masked_attention(q, k, v, attn_mask, scale)
    return _attention(q, k, v, is_causal, scale)


def _four_axes(a: np.ndarray) -> np.ndarray:
    return a if a.ndim == 4 else a.reshape(-1, 1, *a.shape[-2:])


@op
def _attention(q, k, v, is_causal, scale):
    q4, k4, v4 = _four_axes(q), _four_axes(k), _four_axes(v)
    o, lse = kernels.attention(q4, k4, v4, is_causal, scale)

    def vjp(dy):
        grads = kernels.attention_vjp(q4, k4, v4, o, _four_axes(dy), lse, is_causal, scale)
        return tuple(g.reshape(a.shape) for g, a in zip(grads, (q, k, v), strict=True))

    return o.reshape(q.shape), vjp


@op
def _masked_attention(q, k, v, mask, scale):
    """With the (T, S) matrix in memory: any mask, any width of v."""
    scores = kernels.matmul(q, k, trans_b=True) * q.dtype.type(scale)
    if mask is not None:
        mask = np.asarray(mask)
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
        scores = scores.astype(q.dtype, copy=False)
    blind = np.isneginf(scores).all(-1, keepdims=True)
    p = kernels.softmax(np.where(blind, 0, scores).astype(q.dtype)) * ~blind

    def vjp(dy):
        dmask = kernels.softmax_vjp(p, kernels.matmul(dy, v, trans_b=True))
        ds = dmask * q.dtype.type(scale)
        return (
            kernels.matmul(ds, k),
            kernels.matmul(ds, q, trans_a=True),
            kernels.matmul(p, dy, trans_a=True),
            lambda: _unbroadcast(dmask, mask),
        )

    return kernels.matmul(p, v), vjp


@op
def self_attention(qkv, n_head: int, is_causal: bool = False):
    """Multi-head attention of a sequence to itself, from queries, keys and values side by side.

    qkv: (B, T, 3 C) → (B, T, C), C = n_head · D. As scaled_dot_product_attention on the split
    heads, but they are views, and backward writes their gradients into one array.
    """
    if qkv.ndim != 3 or qkv.shape[-1] % (3 * n_head):
        raise ValueError(f"self_attention: {qkv.shape} is not (B, T, 3 · {n_head} · D)")
    B, T, C3 = qkv.shape
    D = C3 // 3 // n_head

    def heads(a):  # 3 × (B, n_head, T, D)
        return a.reshape(B, T, 3, n_head, D).transpose(2, 0, 3, 1, 4)

    q, k, v = heads(qkv)
    o, lse = kernels.attention(q, k, v, is_causal, 1 / scalar_sqrt(D))

    def vjp(dy):
        dqkv = kernels.empty(qkv.shape, dy.dtype)
        do = dy.reshape(B, T, n_head, D).transpose(0, 2, 1, 3)
        kernels.attention_vjp(
            q, k, v, o, do, lse, is_causal, 1 / scalar_sqrt(D), into=tuple(heads(dqkv))
        )
        return (dqkv,)

    return o.transpose(0, 2, 1, 3).reshape(B, T, C3 // 3), vjp


# Losses.


def _reduce(loss, reduction: str, count=None):
    if reduction == "none":
        return loss
    if reduction == "sum":
        return sum(loss)
    if reduction != "mean":
        raise ValueError(f'reduction must be "none", "mean" or "sum", got {reduction!r}')
    if count is None:
        return mean(loss)
    return sum(loss) / int(count) if count else sum(loss) + float("nan")


def _integers(what: str, a: object) -> np.ndarray:
    a = np.asarray(a.data if isinstance(a, Tensor) else a)
    if a.dtype.kind not in "iu" and a.size:
        raise TypeError(f"{what} must be integers, got {a.dtype}")
    return a


def _targets(name: str, targets: object, scores) -> np.ndarray:
    """The class indices as an array, its shape checked against scores: (…, V)."""
    targets = _integers(f"{name}: targets", targets)
    if targets.shape != scores.shape[:-1]:
        raise ValueError(
            f"{name}: scores {scores.shape} need targets of shape {scores.shape[:-1]}, "
            f"got {targets.shape}"
        )
    return targets


def cross_entropy(
    logits, targets, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
):
    """-log softmax(logits)[target], smoothed: (1 - s) of that + s · the mean over the classes.

    logits: (N, V) or (V,), targets: (N,) or () integers → mean over the targets that are not
    ignore_index (NaN if all are), "sum", or "none": (N,).
    Raises: ValueError for a target outside 0 … V - 1.
    """
    targets = _targets("cross_entropy", targets, logits)
    return _cross_entropy(logits, targets, ignore_index, reduction, label_smoothing)


@op
def _cross_entropy(logits, targets, ignore_index, reduction, label_smoothing):
    rows, ids = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    loss, lse = kernels.cross_entropy(rows, ids, ignore_index, label_smoothing)
    count = np.count_nonzero(ids != ignore_index)
    if reduction == "none":
        value = loss.reshape(targets.shape)
    elif reduction == "sum":
        value = loss.sum()
    elif reduction == "mean":
        value = loss.sum() / loss.dtype.type(count) if count else loss.dtype.type(np.nan)
    else:
        raise ValueError(f'reduction must be "none", "mean" or "sum", got {reduction!r}')

    def vjp(dy):
        g = dy.reshape(-1) / loss.dtype.type(builtins.max(count, 1) if reduction == "mean" else 1)
        g = np.ascontiguousarray(np.broadcast_to(g, ids.shape))
        dx = kernels.cross_entropy_vjp(rows, lse, g, ids, ignore_index, label_smoothing)
        return (dx.reshape(logits.shape),)

    return value, vjp


def nll_loss(log_probs, targets, ignore_index: int = -100, reduction: str = "mean"):
    """-log_probs[i, targets[i]].   log_probs: (N, V), targets: (N,)."""
    targets = _targets("nll_loss", targets, log_probs)
    check_indices("nll_loss: targets", targets, log_probs.shape[-1], ignore_index)
    keep = targets != ignore_index
    picked = gather(log_probs, 1, np.where(keep, targets, 0)[:, None])
    loss = where(keep, -reshape(picked, targets.shape), np.zeros((), picked.dtype))
    return _reduce(loss, reduction, np.count_nonzero(keep))


def mse_loss(x, target, reduction: str = "mean"):
    """(x - target)²."""
    difference = sub(x, target)
    return _reduce(mul(difference, difference), reduction)


def kl_div(log_q, target, reduction: str = "mean", log_target: bool = False):
    """p (log p - log q), p = target (or exp(target)), 0 where p is 0; "batchmean": sum / batch."""
    if log_target:
        loss = mul(exp(target), sub(target, log_q))
    else:
        p = target if isinstance(target, Tensor) else Tensor(target)
        positive = p.data > 0
        safe = where(positive, p, np.ones((), p.dtype))
        loss = mul(p, sub(log(safe), where(positive, log_q, np.zeros((), p.dtype))))
    if reduction == "batchmean":
        return sum(loss) / log_q.shape[0]
    return _reduce(loss, reduction)
