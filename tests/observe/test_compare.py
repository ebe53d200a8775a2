"""The same steps under several kernels: the losses agree, and one that computes wrongly is seen."""

import json

import pytest

from minillm import kernels
from minillm.bench.workload import SMALL
from minillm.cli import main
from minillm.observe import compare

SPECS = ["matmul=naive", "auto", "numpy"] if len(kernels.available()["matmul"]) > 1 else ["numpy"]


def test_losses_agree_under_every_choice(measured):
    result = compare.run(SMALL, measured, SPECS, 3)
    assert [choice["kernels"] for choice in result["choices"]] == SPECS
    first, *others = result["choices"]
    assert (first["speed_up"], first["difference"]) == (1, 0)
    assert len(first["losses"]) == 4  # the first to warm up
    assert all(c["agrees"] and c["difference"] < compare.TOLERANCE for c in others)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    text = compare.as_text(result)
    assert all(spec in text for spec in SPECS)
    assert "agree within the tolerance" in text


def test_kernel_that_computes_something_else_is_named(measured, monkeypatch, capsys):
    def wrong(*args):
        y, *rest = kernels.layer_norm.specification(*args)
        return 2 * y, *rest

    choices = {**kernels.layer_norm.implementations, "wrong": wrong}
    monkeypatch.setattr(kernels.layer_norm, "implementations", choices)
    flags = ["--n-layer=1", "--n-head=2", "--n-embd=8", "--block-size=8", "--batch-size=2"]
    assert (
        main(["compare", "--kernels=numpy", "--kernels=layer_norm=wrong", "--steps=1", *flags]) == 1
    )
    assert "the losses of layer_norm=wrong differ by more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernels=auto"], "twice or more"),
        (["--kernels=auto", "--kernels=matmul=fast"], "no implementation 'fast'"),
        (["--kernels=auto", "--kernels=numpy", "--steps=0"], "--steps must be at least 1"),
        (["--kernels=auto", "--kernels=numpy", "--json=no/such/x.json"], "no such directory"),
    ],
)
def test_mistake_is_one_line(measured, arguments, message, capsys):
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
