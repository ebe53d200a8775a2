"""Module: a tree of parameters. It finds them in its attributes: a layer only assigns them."""

from collections.abc import Iterator, Mapping

import numpy as np

from minillm.autograd import Tensor


class Parameter(Tensor):
    """A Tensor that training changes: it requires a gradient and a Module finds it."""

    __slots__ = ()

    def __init__(self, array: object):
        super().__init__(array, requires_grad=True)


class Module:
    """Base of every layer and model; subclasses assign Parameters and Modules, define forward."""

    training = True

    def forward(self, *args):
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def modules(self) -> Iterator["Module"]:
        yield self
        for _, child in self.named_children():
            yield from child.modules()

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """("h.0.mlp.c_fc.weight", parameter), …, in the order of assignment; a shared one once."""
        names: dict[Parameter, str] = {}
        self._collect(prefix, names)
        return ((name, parameter) for parameter, name in names.items())

    def _collect(self, prefix: str, names: dict[Parameter, str]) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                names.setdefault(value, prefix + name)
            elif isinstance(value, Module):
                value._collect(f"{prefix}{name}.", names)

    def parameters(self) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def zero_grad(self) -> None:
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, mode: bool = True) -> "Module":
        """Set the mode that dropout looks at, here and below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> "Module":
        return self.train(False)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters' arrays by name: the arrays themselves, not copies."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Copy arrays into the parameters, converted to their dtype.

        Raises: ValueError that lists every missing, unexpected and mis-shaped name; then nothing
        has been changed.
        """
        own = dict(self.named_parameters())
        problems = [f"missing {name}" for name in own if name not in state]
        problems += [f"unexpected {name}" for name in state if name not in own]
        problems += [
            f"{name}: expected shape {own[name].shape}, got {np.shape(array)}"
            for name, array in state.items()
            if name in own and np.shape(array) != own[name].shape
        ]
        if problems:
            raise ValueError(f"load_state_dict: {'; '.join(problems)}")
        for name, array in state.items():
            own[name].data[...] = array


class ModuleList(Module):
    """Modules by position: their parameters are named 0.…, 1.…"""

    def __init__(self, modules=()):
        self._list = list(modules)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        return ((str(i), module) for i, module in enumerate(self._list))

    def _collect(self, prefix: str, names: dict[Parameter, str]) -> None:
        for name, module in self.named_children():
            module._collect(f"{prefix}{name}.", names)

    def append(self, module: Module) -> None:
        self._list.append(module)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._list)

    def __len__(self) -> int:
        return len(self._list)

    def __getitem__(self, i: int) -> Module:
        return self._list[i]


class Sequential(ModuleList):
    """Modules applied one after the other."""

    def __init__(self, *modules: Module):
        super().__init__(modules)

    def forward(self, x):
        for module in self:
            x = module(x)
        return x
