"""Builds minillm._kernels from csrc, with OpenMP where a probe links; without a compiler, nothing.

MINILLM_OPENMP=0|1 forbids or demands OpenMP; MINILLM_REQUIRE_C=1 makes a failed build an error
instead of an install that runs on the NumPy specifications. `minillm doctor` says which.
"""

import os
import sys
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CompileError, LinkError, PlatformError

REQUIRE_C = os.environ.get("MINILLM_REQUIRE_C") == "1"
OPENMP = os.environ.get("MINILLM_OPENMP")
PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"


def openmp_candidates() -> list[tuple[list[str], list[str]]]:
    """(compile flags, link flags) to try in turn; Apple's clang needs Homebrew's libomp named."""
    if sys.platform != "darwin":
        return [(["-fopenmp"], ["-fopenmp"])]
    prefixes = [
        os.environ.get("LIBOMP_PREFIX"),
        "/opt/homebrew/opt/libomp",
        "/usr/local/opt/libomp",
    ]
    apple = ["-Xpreprocessor", "-fopenmp"]
    return [(["-fopenmp"], ["-fopenmp"])] + [
        ([*apple, f"-I{p}/include"], [f"-L{p}/lib", f"-Wl,-rpath,{p}/lib", "-lomp"])
        for p in prefixes
        if p and Path(p).is_dir()
    ]


class BuildKernels(build_ext):
    def build_extensions(self) -> None:
        for extension in self.extensions:
            extension.optional = not REQUIRE_C
        if self.compiler.compiler_type == "msvc":
            reason = (
                "MSVC has no GNU vector extensions; build with MinGW-w64 or clang, or under WSL"
            )
            if REQUIRE_C:
                raise PlatformError(reason)
            self.warn(f"no compiled kernels: {reason}")
            return
        compile_flags, link_flags = self.find_openmp()
        for extension in self.extensions:
            extension.extra_compile_args += compile_flags
            extension.extra_link_args += link_flags
        super().build_extensions()

    def find_openmp(self) -> tuple[list[str], list[str]]:
        """The first candidate whose probe compiles and links; none is ([], []): one thread."""
        if OPENMP == "0":
            return [], []
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(PROBE)
            for compile_flags, link_flags in openmp_candidates():
                try:
                    objects = self.compiler.compile(
                        [str(source)], output_dir=folder, extra_postargs=compile_flags
                    )
                    self.compiler.link_executable(
                        objects, "probe", output_dir=folder, extra_postargs=link_flags
                    )
                    return compile_flags, link_flags
                except (BaseError, CompileError, LinkError, OSError):
                    continue
        if OPENMP == "1":
            raise CompileError("MINILLM_OPENMP=1, but no OpenMP probe compiled and linked")
        self.warn("OpenMP not found: the kernels will use one thread")
        return [], []


setup(cffi_modules=["csrc/build_ffi.py:ffi"], cmdclass={"build_ext": BuildKernels})
