"""minillm: a language-model framework small enough to read in an evening.

    kernels → autograd → functional → nn, optim → models → train, generate → command line

Each name is imported when it is first used: `minillm --help` need not load the kernels, and a
mistake in MINILLM_TARGET or MINILLM_KERNELS reaches the command line as one line.
"""

from importlib import import_module

from minillm.errors import KernelError, UserError

__version__ = "0.1.0"

_SUBMODULES = (
    "autograd",
    "checkpoint",
    "data",
    "functional",
    "kernels",
    "models",
    "nn",
    "observe",
    "optim",
)
_NAMES = {"Tensor": "minillm.autograd", "no_grad": "minillm.autograd"}

__all__ = ["KernelError", "UserError", *_SUBMODULES, *_NAMES]


def __getattr__(name: str) -> object:
    if name in _SUBMODULES:
        return import_module(f"minillm.{name}")
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'minillm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES, *_NAMES])
