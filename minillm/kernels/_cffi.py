"""The boundary to C: the only file that touches ffi and lib. Every pointer is checked here.

cffi's from_buffer keeps the array alive for as long as the pointer lives, and costs 0.2 µs where
`array.ctypes.data` costs 2.
"""

import os
from collections.abc import Sequence
from math import prod

import numpy as np

from minillm.errors import KernelError

try:
    from minillm._kernels import ffi, lib

    why_not = ""
except ImportError as error:  # no compiler at install time, or a library such as libgomp is gone
    ffi = lib = None
    why_not = str(error)

REMEDY = (
    "install a C compiler (Debian: apt install gcc; macOS: xcode-select --install; "
    "Windows: WSL or MinGW-w64) and install minillm again"
)
FLOAT32, INT64 = np.dtype(np.float32), np.dtype(np.int64)
NULL = ffi.NULL if ffi else None
FLOATS = ffi.typeof("float[]") if ffi else None
BYTE = ffi.typeof("uint8_t") if ffi else None


def keep_memory() -> None:
    """Let malloc keep what a training step frees for the next one; glibc only, see threads.c."""
    if lib:
        lib.ml_keep_memory()


def targets() -> list[str]:
    """The targets that this CPU can run, widest first; empty without compiled kernels."""
    names = []
    while lib and (name := lib.ml_target_name(len(names))):
        names.append(ffi.string(name).decode())
    return names


def set_target(name: str) -> None:
    """Run the kernels compiled for `name`. Raises KernelError naming the targets there are."""
    if lib is None:
        raise KernelError(f"target {name!r}: the kernels are not compiled; {REMEDY}")
    if not lib.ml_set_target(name.encode()):
        raise KernelError(f"no target {name!r} on this CPU; there are: {', '.join(targets())}")


def target_name() -> str:
    return ffi.string(lib.ml_get_target()).decode() if lib else "numpy"


def build() -> dict:
    """target: str, compiler: str, openmp: the version's date such as 201511, or 0."""
    if lib is None:
        return {"target": "numpy", "compiler": "", "openmp": 0}
    compiler = ffi.string(lib.ml_compiler()).decode()
    return {
        "target": target_name(),
        "compiler": compiler,
        "openmp": lib.ml_openmp(),
    }


def is_float32(a: np.ndarray) -> bool:
    """`is` first, the quicker test; but an unpickled dtype is another object."""
    return a.dtype is FLOAT32 or a.dtype == FLOAT32


def source(a: np.ndarray | None) -> object:
    """A const float * to the elements of a in C order, copied first unless they stand so."""
    if a is None:
        return NULL
    if not is_float32(a):
        raise TypeError(f"expected native float32, got {a.dtype.str}")
    if not a.flags.carray:  # strided, misaligned or merely read-only
        a = np.require(a, requirements="CA")
    return ffi.from_buffer(FLOATS, a)


def ids(a: np.ndarray) -> object:
    """A const int64_t * to the elements of a."""
    return ffi.from_buffer("int64_t[]", np.require(a, INT64, "CA"))


def is_target(a: np.ndarray) -> bool:
    """Whether a kernel can write to a as it is."""
    return is_float32(a) and a.flags.carray


def target(a: np.ndarray) -> object:
    """A float * for the kernel to write through."""
    if not is_target(a):
        raise TypeError("expected a writeable, contiguous, native float32 array to write to")
    return ffi.from_buffer(FLOATS, a)


def output(shape: tuple[int, ...]) -> tuple[np.ndarray, object]:
    """(a new array, the float * to write it through), aligned to cache lines.

    A vector of 64 bytes that lies across two of them would cost two loads or stores each time.
    """
    memory = np.empty(prod(shape) + 16, FLOAT32)
    pointer = ffi.from_buffer(FLOATS, memory)
    skip = -int(ffi.cast(BYTE, pointer)) % 64  # from the low byte of the address to the next line
    return np.ndarray(shape, FLOAT32, memory, skip), pointer + skip // 4


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """np.empty, aligned like an `output` where kernels are to write it."""
    return output(shape)[0] if lib and dtype == FLOAT32 else np.empty(shape, dtype)


def sources_of(arrays: Sequence[np.ndarray]) -> list:
    """What `source` gives for each; cffi makes the float ** of a call from such a list."""
    return [source(a) for a in arrays]


def targets_of(arrays: Sequence[np.ndarray]) -> list:
    """What `target` gives for each; cffi makes the float ** of a call from such a list."""
    return [target(a) for a in arrays]


def first(a: np.ndarray) -> object:
    """A float * to the first element of a, whose strides may be any."""
    if not is_float32(a) or not a.flags.aligned:
        raise TypeError(f"expected aligned native float32, got {a.dtype.str}")
    return ffi.from_buffer(FLOATS, a[(slice(1),) * a.ndim])


def default_threads() -> int:
    """MINILLM_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs this process may run on."""
    for variable in ("MINILLM_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "")
        if text:
            if not text.isdigit() or text == "0":
                raise KernelError(f"{variable}={text}: expected a number of threads, 1 or more")
            return int(text)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_threads(threads: int) -> int:
    """How many threads a parallel region that asks for `threads` gets."""
    return lib.ml_count_threads(threads) if lib else 1
