"""The cases of `bench ops`: every Kernel record beside its NumPy specification.

The arguments are those of one call in a training step; cost in FLOP and bytes is the record's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from minillm import kernels
from minillm.bench.products import own
from minillm.bench.timing import Case, Contestant
from minillm.bench.workload import Workload
from minillm.models import GPT

Maker = Callable[[Workload, np.random.Generator], tuple]


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def _matmul(w: Workload, rng: np.random.Generator) -> tuple:
    """x Wᵀ of the feed-forward's first layer."""
    return _normal(rng, w.rows, w.C), _normal(rng, 4 * w.C, w.C), False, True


def _scores(w: Workload, rng: np.random.Generator) -> np.ndarray:
    return _normal(rng, w.B * w.n_head * w.T, w.T)


def _softmax_vjp(w: Workload, rng: np.random.Generator) -> tuple:
    y = kernels.softmax.specification(_scores(w, rng))
    return y, _scores(w, rng)


def _layer_norm(w: Workload, rng: np.random.Generator) -> tuple:
    return _normal(rng, w.rows, w.C), _normal(rng, w.C), None


def _layer_norm_vjp(w: Workload, rng: np.random.Generator) -> tuple:
    x, weight, _ = _layer_norm(w, rng)
    _, mean, rstd = kernels.layer_norm.specification(x, weight, None)
    return _normal(rng, *x.shape), x, weight, mean, rstd


def _hidden(w: Workload, rng: np.random.Generator, n: int) -> tuple:
    return tuple(_normal(rng, n, w.rows, 4 * w.C))


def _attention(w: Workload, rng: np.random.Generator) -> tuple:
    """q, k and v as views of the (B, T, 3 C) array that one product made."""
    D = w.C // w.n_head
    qkv = _normal(rng, w.B, w.T, 3, w.n_head, D).transpose(2, 0, 3, 1, 4)  # (3, B, H, T, D)
    return *qkv, True, D**-0.5


def _attention_vjp(w: Workload, rng: np.random.Generator) -> tuple:
    q, k, v, causal, scale = _attention(w, rng)
    o, lse = kernels.attention.specification(q, k, v, causal, scale)
    return q, k, v, o, _normal(rng, *o.shape), lse, causal, scale


def _cross_entropy(w: Workload, rng: np.random.Generator) -> tuple:
    return _normal(rng, w.rows, w.vocab_size), rng.integers(0, w.vocab_size, w.rows)


def _cross_entropy_vjp(w: Workload, rng: np.random.Generator) -> tuple:
    x, targets = _cross_entropy(w, rng)
    _, lse = kernels.cross_entropy.specification(x, targets)
    return x, lse, np.full(w.rows, 1 / w.rows, np.float32), targets


def _embedding_vjp(w: Workload, rng: np.random.Generator) -> tuple:
    return _normal(rng, w.rows, w.C), rng.integers(0, w.vocab_size, w.rows), w.vocab_size


def _gradients(w: Workload, rng: np.random.Generator) -> list[np.ndarray]:
    return [_normal(rng, *p.shape) for p in GPT(w.model(), rng).parameters()]


def _adamw(w: Workload, rng: np.random.Generator) -> tuple:
    params, grads, ms, vs = (_gradients(w, rng) for _ in range(4))
    vs = [v * v for v in vs]
    return params, grads, ms, vs, 1e-3, 0.9, 0.99, 1e-8, [0.1] * len(params), 100


def _decode(w: Workload, rng: np.random.Generator) -> tuple:
    model = GPT(w.model())
    caches = [tuple(_normal(rng, 2, 1, w.n_head, w.T, w.C // w.n_head)) for _ in model.h]
    return _normal(rng, 1, w.C), model.decoder(), caches, w.T - 1


ARGUMENTS: dict[str, Maker] = {
    "matmul": _matmul,
    "softmax": lambda w, rng: (_scores(w, rng),),
    "softmax_vjp": _softmax_vjp,
    "layer_norm": _layer_norm,
    "layer_norm_vjp": _layer_norm_vjp,
    "gelu": partial(_hidden, n=1),
    "gelu_vjp": partial(_hidden, n=2),
    "attention": _attention,
    "attention_vjp": _attention_vjp,
    "cross_entropy": _cross_entropy,
    "cross_entropy_vjp": _cross_entropy_vjp,
    "embedding_vjp": _embedding_vjp,
    "adamw": _adamw,
    "decode": _decode,
    "draw": lambda w, rng: (_normal(rng, w.vocab_size), 1.0, 40, 1.0, 0.5),
    "sum_squares": lambda w, rng: (_gradients(w, rng),),
    "scale_all": lambda w, rng: (_gradients(w, rng), 1.0),
}


def cases(w: Workload, specs: list[str], threads: int) -> Iterator[Case]:
    """One case for each kernel that there are arguments for."""
    for name, kernel in kernels.ALL.items():
        if name not in ARGUMENTS:
            continue
        args = ARGUMENTS[name](w, np.random.default_rng(0))
        contestants = own(specs, partial(kernel, *args))
        contestants.append(Contestant("numpy", partial(kernel.specification, *args)))
        work = {"flop": kernel.flops(*args), "byte": kernel.bytes(*args)}
        yield Case(name, threads, work, contestants, "ops")


def missing() -> list[str]:
    """The kernels that nobody has written arguments for."""
    return [name for name in kernels.ALL if name not in ARGUMENTS]
