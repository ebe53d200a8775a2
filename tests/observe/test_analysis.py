"""The tables of a profile: they add up, agree with a count by hand, and find what is slow."""

import time

import numpy as np
import pytest

from minillm import kernels
from minillm.bench.workload import SMALL, Workload
from minillm.models import GPT, cost
from minillm.observe import session
from minillm.observe.analysis import REST, analyse
from minillm.observe.profiler import Profile

MODEL = Workload("a small one", block_size=32, n_layer=2, n_head=2, C=64, B=8, T=32)


def profiled(w, roof, steps=3):
    profile, _ = session.profile_training(w, steps)
    return analyse(profile, roof)


@pytest.fixture(scope="module")
def char_small():
    """Three steps of the default model."""
    return session.profile_training(Workload(), 3)[0]


def test_at_least_95_percent_of_the_step_is_attributed(char_small, roof):
    found = analyse(char_small, roof)
    assert found["attributed"] >= 0.95
    names = {phase["name"] for phase in found["phases"]}
    assert names == {"data", "forward", "backward", "clip", "optimizer", "python"}


@pytest.mark.parametrize("config", [Workload(), MODEL], ids=["char-small", "small"])
def test_flop_agree_with_the_count_by_hand(config, char_small, roof):
    found = analyse(char_small, roof) if config == Workload() else profiled(config, roof, 1)
    by_hand = cost.computed_flops(config.model(), config.B, config.T)
    assert found["flop"] == pytest.approx(sum(by_hand.values()), rel=0.01)


def test_tables_cut_the_step_without_a_rest(roof):
    found = profiled(MODEL, roof)
    mean = found["seconds"]["mean"]
    for table in ("phases", "parts"):
        assert sum(row["seconds"] for row in found[table]) == pytest.approx(mean)
        assert sum(row["share"] for row in found[table]) == pytest.approx(1)
    operations, kernel_rows = found["operations"], found["kernels"]
    rest = next(part["seconds"] for part in found["parts"] if part["name"] == REST)
    assert sum(row["seconds"] for row in operations) + rest == pytest.approx(mean)
    in_kernels = sum(row["kernel_seconds"] for row in operations)
    assert sum(row["seconds"] for row in kernel_rows) == pytest.approx(in_kernels)
    for row in operations:
        phases = row["forward"] + row["backward"] + row["other"]
        assert row["kernel_seconds"] + row["own_seconds"] == pytest.approx(row["seconds"])
        assert phases == pytest.approx(row["seconds"])
        assert row["step_if_free"] + row["seconds"] == pytest.approx(mean)


def test_calls_and_rates_are_per_step(roof):
    found = profiled(MODEL, roof, steps=2)
    operations = {row["name"]: row for row in found["operations"]}
    assert operations["layer_norm"]["calls"] == 2 * MODEL.n_layer + 1
    for row in found["kernels"]:
        assert row["gflops"] == pytest.approx(row["flop"] / row["seconds"] / 1e9)
        assert row["gbs"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9)
        assert row["intensity"] == pytest.approx(row["flop"] / row["bytes"])
        assert row["roof_fraction"] == pytest.approx(row["roof_seconds"] / row["seconds"])


def test_naive_matmul_is_the_bottleneck(roof):
    with kernels.using(matmul=kernels.available()["matmul"][0]):
        part = profiled(MODEL, roof)["parts"][0]
    assert (part["name"], part["kind"]) == ("matmul", "kernel")


@pytest.mark.parametrize("name", ["attention_vjp", "layer_norm", "adamw"])
def test_planted_slow_kernel_is_found(name, roof, monkeypatch):
    kernel = kernels.ALL[name]
    fast = kernel.run

    def slow(*args, **kwargs):
        time.sleep(0.02)
        return fast(*args, **kwargs)

    monkeypatch.setattr(kernel, "run", slow)
    found = profiled(SMALL, roof, steps=1)
    first = found["parts"][0]
    assert (first["name"], first["kind"]) == (name, "kernel")
    assert max(found["parts"], key=lambda part: part["gain"]) is first
    assert found["kernels"][0]["kernel"] == name
    assert found["kernels"][0]["bound"] == "implementation"


def test_disturbed_steps_are_left_out(roof):
    profile = Profile()
    for seconds in (0.03, 0.001, 0.002, 0.001, 0.04):
        with profile, profile.phase("sleep"):
            time.sleep(seconds)
    found = analyse(profile, roof)
    fastest = sorted(step.seconds for step in profile.steps)[:3]
    assert found["steps"] == 5
    assert found["seconds"]["mean"] == pytest.approx(np.mean(fastest))
    assert found["operations"][0]["seconds"] <= found["seconds"]["mean"]


def test_profile_without_a_step_is_an_error(roof):
    with pytest.raises(ValueError, match="holds no step"):
        analyse(Profile(), roof)


def test_cost_by_hand_knows_the_parameters():
    for config in (Workload().model(), MODEL.model(), SMALL.model(), Workload(bias=True).model()):
        parameters = GPT(config).parameters()
        assert cost.parameters(config) == sum(p.data.size for p in parameters)


def test_products_by_hand_are_those_of_forward(roof):
    model, x = GPT(MODEL.model()), np.zeros((3, 20), np.int64)
    calls = []
    kernels.observers.append(lambda kernel, args, kwargs, seconds: calls.append((kernel, args)))
    model(x)
    products = sum(
        2 * np.prod(args[0].shape) * args[1].shape[0] for k, args in calls if k.name == "matmul"
    )
    assert products == cost.linear_flops(MODEL.model(), x.size)
    pairs = 2 * 2 * 3 * sum(range(1, 21))  # layers, heads, sequences, keys that each query sees
    assert cost.scores(MODEL.model(), 3, 20) == pairs
    assert cost.forward_flops(MODEL.model(), 3, 20) == products + pairs * 4 * 32
    whole = cost.forward_flops(MODEL.model(), 1, 21)
    in_parts = cost.forward_flops(MODEL.model(), 1, 20) + cost.forward_flops(
        MODEL.model(), 1, 1, 20
    )
    assert whole == in_parts
