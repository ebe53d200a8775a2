"""A gradient check that works for every operation: along one random direction, in float64.

Source: after HIPS autograd's test_util.py and JAX's check_grads.
"""

from collections.abc import Callable

import numpy as np

import minillm as ml


def check_gradient(f: Callable, *arrays: np.ndarray, eps: float = 1e-6, rtol: float = 1e-6) -> None:
    """Hold backward() to central differences of f, a function of Tensors that returns one Tensor.

    For a random cotangent c and random directions dᵢ, backward(c) must give gradients gᵢ with

        Σᵢ ⟨gᵢ, dᵢ⟩ = ⟨c, f(x + eps d) - f(x - eps d)⟩ / (2 eps),

    the derivative of ⟨c, f⟩ along d by both routes. One direction sees every element of every
    gradient, so one comparison is enough, and a wrong element is missed only by a coincidence. The
    cotangent is random because c = 1 (which is .sum().backward()) proves nothing where the sum of
    the results is constant: the gradient of a softmax's sum is zero, and so is any wrong multiple.

    The error of the difference is eps² f‴/6 + u |f|/eps, about 1e-10 each for values near 1, far
    below rtol. Arrays of integers pass through as they are. Also checked: each gradient has its
    array's shape and dtype, no array is changed, and no two gradients share memory.
    """
    rng = np.random.default_rng(len(arrays))
    arrays = [a if np.asarray(a).dtype.kind in "bi" else np.asarray(a, np.float64) for a in arrays]
    before = [a.copy() for a in arrays]
    tensors = [ml.Tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    y = f(*tensors)
    cotangent = rng.standard_normal(y.shape)
    y.backward(cotangent)

    leaves = [t for t in tensors if t.requires_grad]
    for t in leaves:
        assert isinstance(t.grad, np.ndarray), f"gradient is {type(t.grad)}"
        assert (t.grad.shape, t.grad.dtype) == (t.shape, t.dtype)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
    for i, t in enumerate(leaves):
        assert not any(np.shares_memory(t.grad, other.grad) for other in leaves[:i])

    directions = [rng.standard_normal(a.shape) if a.dtype.kind == "f" else None for a in arrays]
    along = sum(np.sum(t.grad * d) for t, d in zip(leaves, filter_none(directions), strict=True))

    def value(step: float) -> float:
        moved = [a if d is None else a + step * d for a, d in zip(arrays, directions, strict=True)]
        return np.sum(cotangent * f(*map(ml.Tensor, moved)).data)

    difference = (value(eps) - value(-eps)) / (2 * eps)
    np.testing.assert_allclose(along, difference, rtol=rtol, atol=rtol * 0.1)


def filter_none(items: list) -> list:
    return [item for item in items if item is not None]
