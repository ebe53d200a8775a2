"""Module finds, names, saves and loads its parameters."""

import numpy as np
import pytest

from minillm import nn


class Net(nn.Module):
    def __init__(self):
        self.scale = nn.Parameter(np.ones(2, np.float32))
        self.first = nn.Linear(2, 3)
        self.blocks = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.LayerNorm(3)])
        self.drop = nn.Dropout(0.5)
        self.last = nn.Parameter(np.zeros((), np.float32))


NAMES = [
    "scale", "first.weight", "first.bias", "blocks.0.weight", "blocks.1.weight", "blocks.1.bias",
    "last",
]  # fmt: skip


def test_named_parameters_come_in_the_order_of_assignment():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [id(p) for p in net.parameters()] == [id(p) for _, p in net.named_parameters()]
    assert [name for name, _ in net.named_parameters(prefix="x.")][1] == "x.first.weight"


def test_tied_parameter_is_counted_once_under_its_first_name():
    net = Net()
    net.again, net.same_module = net.first.weight, net.first
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert list(net.state_dict()) == NAMES


def test_modules_lists_itself_and_everything_below():
    kinds = [type(m).__name__ for m in Net().modules()]
    assert kinds == ["Net", "Linear", "ModuleList", "Linear", "LayerNorm", "Dropout"]


def test_train_and_eval_reach_every_module():
    net = Net()
    assert all(m.training for m in net.modules())
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    assert net.train() is net
    assert all(m.training for m in net.modules())
    assert Net().training  # another's mode is its own


def test_zero_grad_forgets_every_gradient():
    net = Net()
    for p in net.parameters():
        p.grad = np.ones(p.shape, np.float32)
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_state_dict_round_trips():
    a, b = Net(), Net()
    for i, p in enumerate(a.parameters()):
        p.data[...] = i + 1
    saved = {name: array.copy() for name, array in a.state_dict().items()}
    arrays = [p.data for p in b.parameters()]
    b.load_state_dict(saved)
    for name, array in b.state_dict().items():
        np.testing.assert_array_equal(array, saved[name])
        assert not np.shares_memory(array, saved[name])
    assert all(p.data is array for p, array in zip(b.parameters(), arrays, strict=True))


def test_load_state_dict_converts_to_the_parameters_dtype():
    net = Net()
    net.load_state_dict({k: np.full(a.shape, 0.1) for k, a in net.state_dict().items()})
    assert all(p.dtype == np.float32 for p in net.parameters())
    np.testing.assert_array_equal(net.scale.data, np.full(2, 0.1, np.float32))


def test_load_state_dict_reports_everything_at_once_and_changes_nothing():
    net = Net()
    state = {name: array + 1 for name, array in net.state_dict().items()}
    del state["scale"], state["blocks.1.bias"]
    state |= {"extra": np.ones(1), "first.weight": np.ones((2, 3)), "last": np.ones(1)}
    before = {name: array.copy() for name, array in net.state_dict().items()}
    with pytest.raises(ValueError, match="load_state_dict") as error:
        net.load_state_dict(state)
    for part in (
        "missing scale",
        "missing blocks.1.bias",
        "unexpected extra",
        "first.weight: expected shape (3, 2), got (2, 3)",
        "last: expected shape (), got (1,)",
    ):
        assert part in str(error.value)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Net defines no forward"):
        Net()(1)


def test_module_list_is_a_list():
    layers = nn.ModuleList(nn.Dropout(p) for p in (0.1, 0.2))
    layers.append(nn.Dropout(0.3))
    assert len(layers) == 3
    assert [m.p for m in layers] == [0.1, 0.2, 0.3]
    assert layers[-1].p == 0.3


def test_sequential_applies_its_modules_in_turn():
    a, b = nn.Linear(2, 3), nn.Linear(3, 4)
    x = np.ones((5, 2), np.float32)
    np.testing.assert_array_equal(nn.Sequential(a, b)(x).data, b(a(x)).data)
    assert [n for n, _ in nn.Sequential(a, b).named_parameters()][:2] == ["0.weight", "0.bias"]
