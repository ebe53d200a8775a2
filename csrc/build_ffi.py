"""Describes the compiled module minillm._kernels to cffi: api.h is its interface, csrc its sources.

Imports nothing of minillm. setup.py adds the OpenMP flags that its probe finds to work.
"""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = ["threads.c", "decode.c", "draw.c", "roof_threads.c", "dispatch.c"] + [
    f"targets/{name}.c" for name in ("baseline", "avx2", "avx512", "neon")
]
FLAGS = ["-O3", "-std=gnu11", "-fno-math-errno", "-ffp-contract=fast", "-Wall", "-Wextra"]

ffi = FFI()
ffi.cdef((HERE / "api.h").read_text(encoding="utf-8"))
ffi.set_source(
    "minillm._kernels",
    '#include <stdint.h>\n#include "api.h"',
    sources=[f"csrc/{source}" for source in SOURCES],
    include_dirs=["csrc"],
    depends=sorted(f"csrc/{p.relative_to(HERE).as_posix()}" for p in HERE.rglob("*.[ch]")),
    extra_compile_args=[
        *FLAGS,
        "-Wno-unknown-pragmas",
    ],  # the OpenMP pragmas, in a build without it
)
