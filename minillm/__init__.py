"""minillm: a language-model framework small enough to read in an evening.

kernels → autograd → functional → nn, optim → models → train, generate → command line
"""

from minillm import functional, kernels, nn, optim
from minillm.autograd import Tensor, no_grad
from minillm.errors import KernelError, UserError

__version__ = "0.1.0"

__all__ = [
    "KernelError", "Tensor", "UserError", "functional", "kernels", "nn", "no_grad", "optim",
]  # fmt: skip
