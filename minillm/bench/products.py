"""The cases of `bench matmul` and `bench softmax`: one kernel beside NumPy and PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from minillm import kernels
from minillm.bench.timing import Case, Contestant

# (rows, out, in) of char-small's linear layers: attention's two, the feed-forward's two, logits.
LAYERS = [(768, 384, 128), (768, 128, 128), (768, 512, 128), (768, 128, 512), (768, 65, 128)]
HEADS = (48, 64, 64, 32)  # batch × heads, T, T, head_dim
CUBES = (512, 1024, 2048)
SOFTMAXES = [(3072, 64), (98304, 256), (4096, 50257)]
COPY = 100_000_000  # bytes of traffic from which a copy is the natural yardstick

Shape = tuple[tuple[int, ...], int, int, int]  # (leading axes, M, N, K)


def training_products(small: bool) -> Iterator[tuple[str, str, Shape]]:
    """(group, "NN", "NT" or "TN", shape): each layer's y = x Wᵀ, dx = dy W, dW = dyᵀ x, …"""
    for rows, n, k in [(6, 5, 4)] if small else LAYERS:
        yield "training", "NT", ((), rows, n, k)
        yield "training", "NN", ((), rows, k, n)
        yield "training", "TN", ((), n, k, rows)
    B, T, S, D = (2, 3, 3, 2) if small else HEADS
    yield "training", "NT", ((B,), T, S, D)  # q kᵀ
    yield "training", "NN", ((B,), T, D, S)  # p v
    yield "training", "TN", ((B,), S, D, T)  # pᵀ do
    for n in (8,) if small else CUBES:
        yield "cubes", "NN", ((), n, n, n)


def matmul_cases(
    specs: list[str], threads: list[int], small: bool, torch: Any = None
) -> Iterator[Case]:
    """Every product on each number of threads, into a given output."""
    for n_threads in threads:
        for group, form, shape in training_products(small):
            yield _matmul_case(group, form, shape, n_threads, specs, torch)


def _matmul_case(
    group: str, form: str, shape: Shape, threads: int, specs: list[str], torch: Any
) -> Case:
    (lead, M, N, K), (trans_a, trans_b) = shape, (form[0] == "T", form[1] == "T")
    rng = np.random.default_rng(0)
    a = rng.standard_normal((*lead, K, M) if trans_a else (*lead, M, K), np.float32)
    b = rng.standard_normal((*lead, N, K) if trans_b else (*lead, K, N), np.float32)
    c = np.empty((*lead, M, N), np.float32)
    a_view = a.swapaxes(-1, -2) if trans_a else a  # (…, M, K)
    b_view = b.swapaxes(-1, -2) if trans_b else b  # (…, K, N)
    contestants = own(specs, lambda: kernels.matmul(a, b, trans_a, trans_b, c))
    contestants.append(Contestant("numpy", lambda: np.matmul(a_view, b_view, out=c)))
    if torch:
        tensors = [torch.from_numpy(x) for x in (a_view, b_view, c)]
        contestants.append(Contestant("torch", _torch_matmul(torch, *tensors)))
    size = "×".join(map(str, (M, N, K))) + "".join(f" ×{n}" for n in lead)
    flop = kernels.matmul.flops(a, b, trans_a, trans_b)
    return Case(f"{form} {size}", threads, {"flop": flop}, contestants, group)


def _torch_matmul(torch: Any, a: Any, b: Any, c: Any) -> Callable[[], object]:
    def call():
        with torch.inference_mode():
            torch.matmul(a, b, out=c)

    return call


def softmax_cases(specs: list[str], threads: int, small: bool, torch: Any = None) -> Iterator[Case]:
    """Rows of attention, of a vocabulary's logits and between, into a given output."""
    for shape in [(4, 5)] if small else SOFTMAXES:
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        y = np.zeros_like(x)
        yield _softmax_case(x, y, specs, threads, torch)


def _softmax_case(x: np.ndarray, y: np.ndarray, specs: list[str], threads: int, torch: Any) -> Case:
    contestants = own(specs, lambda: kernels.softmax(x, y))
    contestants.append(Contestant("numpy", lambda: _numpy_softmax(x, y)))
    if torch:
        tx, ty = torch.from_numpy(x), torch.from_numpy(y)
        contestants.append(Contestant("torch", lambda: torch.softmax(tx, -1, out=ty)))
    if 2 * x.nbytes >= COPY:
        contestants.append(Contestant("copy", _copy(x, y, threads)))
    work = {"byte": 2 * x.nbytes}
    return Case("×".join(map(str, x.shape)), threads, work, contestants, "softmax")


def _numpy_softmax(x: np.ndarray, y: np.ndarray) -> None:
    """As one writes it in NumPy with no temporary larger than a column."""
    np.subtract(x, x.max(-1, keepdims=True), out=y)
    np.exp(y, out=y)
    y /= y.sum(-1, keepdims=True)


def _copy(x: np.ndarray, y: np.ndarray, threads: int) -> Callable[[], object]:
    """Copy x to y, a part in each thread (NumPy lets go of the GIL): what memory can do."""
    parts = list(zip(np.array_split(x, threads), np.array_split(y, threads), strict=True))
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts))


def own(specs: list[str], call: Callable[[], object]) -> list[Contestant]:
    """The same call once for each choice of kernels; "" is the choice that is in force."""
    return [Contestant(name_of(spec), call, spec, is_minillm=True) for spec in specs]


def name_of(spec: str) -> str:
    return f"minillm {spec}" if spec else "minillm"
