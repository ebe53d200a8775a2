"""Optimizers, gradient clipping and learning-rate schedules.

A schedule is a function of the iteration: set `optimizer.lr = schedule(i)` before each step.
"""

from collections.abc import Callable, Iterable
from math import cos, pi, sqrt

import numpy as np

from minillm import kernels
from minillm.autograd import Tensor, observed

Arrays = list[np.ndarray]  # one for each parameter that has a gradient


class Optimizer:
    """Base class: the parameters, the learning rate, one array of state per slot and parameter."""

    slots: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Tensor], lr: float):
        self.params = list(params)
        if not self.params:
            raise ValueError(f"{type(self).__name__}: there are no parameters")
        if not lr >= 0:
            raise ValueError(f"{type(self).__name__}: lr must not be negative, got {lr}")
        kernels.keep_memory()  # there will be steps
        self.lr, self.step_count = lr, 0
        self.state = {slot: [np.zeros_like(p.data) for p in self.params] for slot in self.slots}

    @observed("optimizer")
    def step(self) -> None:
        """Change every parameter that has a gradient."""
        self.step_count += 1
        at = [i for i, p in enumerate(self.params) if p.grad is not None]
        params, grads = [self.params[i].data for i in at], [self.params[i].grad for i in at]
        self.update(params, grads, *([self.state[slot][i] for i in at] for slot in self.slots))

    def update(self, params: Arrays, grads: Arrays, *state: Arrays) -> None:
        """Change the parameters in place; one list of state for each slot."""
        raise NotImplementedError

    @observed("optimizer")
    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """ "step" and "slot.i" for parameter i: the arrays themselves."""
        arrays = {f"{slot}.{i}": a for slot in self.slots for i, a in enumerate(self.state[slot])}
        return {"step": np.array(self.step_count), **arrays}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Raises: ValueError where names or shapes differ; then nothing has been changed."""
        own = self.state_dict()
        wrong = sorted(set(own) ^ set(state))
        wrong += [k for k in own if k in state and own[k].shape != np.shape(state[k])]
        if wrong:
            raise ValueError(f"{type(self).__name__}: state does not fit at {', '.join(wrong)}")
        self.step_count = int(state["step"])
        for name, array in own.items():
            array[...] = state[name]


class SGD(Optimizer):
    """v ← momentum v + g + weight_decay p,   p ← p - lr v.   Source: Sutskever et al. 2013."""

    slots = ("velocity",)

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, lr)
        self.momentum, self.weight_decay = momentum, weight_decay

    def update(self, params, grads, velocities):
        for p, g, velocity in zip(params, grads, velocities, strict=True):
            velocity *= self.momentum
            velocity += g
            if self.weight_decay:
                velocity += self.weight_decay * p
            p -= self.lr * velocity


class AdamW(Optimizer):
    """Adam with decoupled weight decay, which falls on matrices only: not on biases and gains.

    m ← β₁ m + (1-β₁) g,  v ← β₂ v + (1-β₂) g²,  p ← p (1 - lr·decay) - lr m̂ / (√v̂ + eps).
    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """

    slots = ("m", "v")

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        super().__init__(params, lr)
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1):
            raise ValueError(f"{type(self).__name__}: betas must be in [0, 1), got {betas}")
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    def update(self, params, grads, ms, vs):
        decays = [self.weight_decay if p.ndim >= 2 else 0.0 for p in params]
        settings = (self.lr, *self.betas, self.eps, decays, self.step_count)
        kernels.adamw(params, grads, ms, vs, *settings)


class Adam(AdamW):
    """AdamW without decay.   Source: Kingma and Ba 2015, arXiv:1412.6980."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        super().__init__(params, lr, betas, eps, weight_decay=0.0)


@observed("clip")
def clip_grad_norm_(params: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients, in place, by max_norm / norm if norm = √Σ g² exceeds max_norm.

    Returns the norm before.
    """
    grads = [p.grad for p in params if p.grad is not None]
    norm = sqrt(kernels.sum_squares(grads))
    if norm > max_norm:
        kernels.scale_all(grads, max_norm / (norm + 1e-6))
    return norm


def constant(lr: float) -> Callable[[int], float]:
    """lr, always."""
    return lambda iteration: lr


def step(lr: float, step_size: int, gamma: float = 0.1) -> Callable[[int], float]:
    """lr · gamma^⌊iteration / step_size⌋."""
    return lambda iteration: lr * gamma ** (iteration // step_size)


def cosine_with_warmup(
    max_lr: float, min_lr: float, warmup_iters: int, max_iters: int
) -> Callable[[int], float]:
    """A linear rise over warmup_iters, then half a cosine from max_lr down to min_lr at max_iters.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983; the warm-up as in nanoGPT.
    """

    def lr(iteration: int) -> float:
        if iteration < warmup_iters:
            return max_lr * (iteration + 1) / (warmup_iters + 1)
        if iteration >= max_iters:
            return min_lr
        progress = (iteration - warmup_iters) / (max_iters - warmup_iters)
        return min_lr + (max_lr - min_lr) * (1 + cos(pi * progress)) / 2

    return lr
