"""The hot operations, each a `Kernel`, and which implementation of each one runs.

    kernels.available()                     {"matmul": ["naive", …, "parallel", "numpy"], …}
    kernels.use("auto")                     the fastest of each, the default; or "numpy"
    kernels.use("matmul=tiled,softmax=numpy")
    with kernels.using(matmul="naive"): …   for a while

Environment: MINILLM_KERNELS (as `use`), MINILLM_TARGET (baseline, avx2, avx512, neon),
MINILLM_NUM_THREADS.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from minillm.errors import KernelError
from minillm.kernels import _cffi
from minillm.kernels._cffi import empty, keep_memory
from minillm.kernels.attention import attention, attention_vjp
from minillm.kernels.cross_entropy import cross_entropy, cross_entropy_vjp
from minillm.kernels.decode import Decoder, decode
from minillm.kernels.draw import draw
from minillm.kernels.embedding import embedding_vjp
from minillm.kernels.gelu import erf, gelu, gelu_vjp
from minillm.kernels.kernel import Kernel, observers
from minillm.kernels.layer_norm import layer_norm, layer_norm_vjp
from minillm.kernels.matmul import matmul
from minillm.kernels.optimizer import adamw, scale_all, sum_squares
from minillm.kernels.softmax import softmax, softmax_vjp
from minillm.kernels.threads import get_num_threads, set_num_threads

ALL: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        matmul, softmax, softmax_vjp, layer_norm, layer_norm_vjp, gelu, gelu_vjp, attention,
        attention_vjp, cross_entropy, cross_entropy_vjp, embedding_vjp, adamw, sum_squares,
        scale_all, decode, draw,
    )
}  # fmt: skip

__all__ = [
    *ALL, "ALL", "Decoder", "Kernel", "available", "empty", "erf", "get_num_threads", "info",
    "keep_memory", "observers", "set_num_threads", "set_target", "use", "using",
]  # fmt: skip


def available() -> dict[str, list[str]]:
    """The implementations of each kernel by name, slowest first, "numpy" last."""
    return {name: kernel.names() for name, kernel in ALL.items()}


def use(spec: str = "", **choices: str) -> None:
    """Choose what runs from now on: "auto", "numpy", or "kernel=implementation,…"; or by keyword.

    use() is use("auto"), which resets every kernel; names alone leave the other kernels as they
    are. Raises: KernelError that lists the valid names.
    """
    if not spec and not choices:
        spec = "auto"
    parts = [part.strip() for part in spec.split(",") if part.strip()]
    pairs = list(choices.items())
    for part in parts:
        name, equals, implementation = part.partition("=")
        if equals:
            pairs.append((name.strip(), implementation.strip()))
        elif part in ("auto", "numpy"):
            pairs = [(n, k.fastest() if part == "auto" else part) for n, k in ALL.items()] + pairs
        else:
            raise KernelError(
                f"kernels: expected auto, numpy or kernel=implementation, got {part!r}"
            )
    for name, implementation in pairs:
        if name not in ALL:
            raise KernelError(f"no kernel {name!r}; there are: {', '.join(ALL)}")
        if implementation not in ALL[name].names():
            there = ", ".join(ALL[name].names())
            why = "" if _cffi.lib else f"; the kernels are not compiled: {_cffi.REMEDY}"
            raise KernelError(
                f"no implementation {implementation!r} of {name}; there are: {there}{why}"
            )
    for name, implementation in pairs:
        ALL[name].choose(implementation)


@contextmanager
def using(spec: str = "", **choices: str) -> Iterator[None]:
    """use(spec, **choices) inside a with block; what ran before runs again after it."""
    before = {name: kernel.chosen for name, kernel in ALL.items()}
    try:
        use(spec, **choices)
        yield
    finally:
        use("", **before)


def set_target(name: str) -> None:
    """Run the code compiled for `name`: baseline, avx2, avx512 or neon.

    Raises: KernelError naming the targets that this CPU has.
    """
    _cffi.set_target(name)


def info() -> dict:
    """compiled, why (not), remedy, target, targets, threads, openmp, compiler, kernels."""
    build = _cffi.build()
    return {
        "compiled": _cffi.lib is not None,
        "why": _cffi.why_not,
        "remedy": "" if _cffi.lib else _cffi.REMEDY,
        "target": build["target"],
        "targets": _cffi.targets(),
        "threads": get_num_threads() if build["openmp"] else 1,
        "openmp": bool(build["openmp"]),
        "compiler": build["compiler"],
        "kernels": {name: kernel.chosen for name, kernel in ALL.items()},
    }


if os.environ.get("MINILLM_TARGET"):
    set_target(os.environ["MINILLM_TARGET"])
if os.environ.get("MINILLM_KERNELS"):
    use(os.environ["MINILLM_KERNELS"])
