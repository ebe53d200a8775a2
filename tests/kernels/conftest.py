"""A test argument named as a kernel (matmul, softmax, …) is that kernel on each target with each

implementation; `choice` is every one of them, `target` is each target of this CPU, switched on.
"""

import sys
from pathlib import Path

import pytest

from minillm import kernels

sys.path.insert(0, str(Path(__file__).parent))  # for `import bounds`


class Choice:
    """One kernel on one target with one implementation; called as the kernel is."""

    def __init__(self, kernel: kernels.Kernel, implementation: str, target: str = "") -> None:
        self.kernel, self.implementation, self.target = kernel, implementation, target

    def __call__(self, *args, **kwargs):
        if self.target:
            kernels.set_target(self.target)
        with kernels.using(**{self.kernel.name: self.implementation}):
            return self.kernel(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{self.target}-{self.implementation}" if self.target else self.implementation


def choices(name: str) -> list[Choice]:
    """Every target × compiled implementation, and numpy, which has no target."""
    targets, (*compiled, numpy) = kernels.info()["targets"], kernels.ALL[name].names()
    return [Choice(kernels.ALL[name], i, t) for t in targets for i in compiled] + [
        Choice(kernels.ALL[name], numpy)
    ]


def pytest_generate_tests(metafunc):
    names = [name for name in kernels.ALL if name in metafunc.fixturenames]
    if names:  # several kernels in one test run on the same target with the same implementation
        together = list(zip(*map(choices, names), strict=True))
        metafunc.parametrize(names, together, ids=[str(first) for first, *_ in together])
    if "choice" in metafunc.fixturenames:
        every = [choice for name in kernels.ALL for choice in choices(name)]
        metafunc.parametrize("choice", every, ids=lambda choice: f"{choice.kernel.name}-{choice}")


@pytest.fixture(params=kernels.info()["targets"])
def target(request) -> str:
    kernels.set_target(request.param)
    return request.param
