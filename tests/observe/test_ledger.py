"""The memory ledger: predicted from shapes and measured, side by side."""

import dataclasses
import itertools
import json
import tracemalloc

import numpy as np
import pytest

from minillm import autograd
from minillm import functional as F
from minillm.bench import workload
from minillm.bench.workload import SMALL
from minillm.nn import Linear
from minillm.observe import ledger
from minillm.observe.predict import operations, predict

ROWS = ["parameters", "gradients", "optimizer state", "activations", "temporaries", "peak"]
PLAIN = workload.of_preset("char-small")
VARIANTS = {
    "char-small": PLAIN,
    "char-mid": workload.of_preset("char-mid"),
    "with-bias-and-dropout": dataclasses.replace(PLAIN, bias=True, dropout=0.1, n_layer=2),
}


@pytest.mark.parametrize("w", VARIANTS.values(), ids=VARIANTS)
def test_predicted_and_measured_agree_within_5_percent(w):
    found = ledger.measure(w)
    assert [row["name"] for row in found["rows"]] == ROWS
    for row in found["rows"]:
        assert row["measured"] == pytest.approx(row["predicted"], rel=0.05), row["name"]
    for row in found["activations"]:
        # 64 bytes more an array, in which it is moved to a cache line
        assert row["measured"] == pytest.approx(row["predicted"], rel=1e-3), row
    assert json.loads(json.dumps(found)) == found


def test_timeline_is_one_step_and_ends_where_it_began():
    found = ledger.measure(SMALL)
    timeline, rows = found["timeline"], {row["name"]: row for row in found["rows"]}
    phases = [event["phase"] for event in timeline]
    assert list(dict.fromkeys(phases)) == ["forward", "backward", "clip", "optimizer"]
    assert phases.count("forward") == len(operations(SMALL.model(), SMALL.B, SMALL.T))
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(timeline))
    assert all(event["live"] <= event["high"] for event in timeline)
    assert max(event["high"] for event in timeline) == rows["peak"]["measured"]
    between = rows["parameters"]["measured"] + rows["optimizer state"]["measured"]
    assert timeline[-1]["live"] < between + 100_000  # Python's own


def test_nothing_stays_attached_and_tracing_stops():
    before = list(autograd.observers)
    ledger.measure(SMALL)
    assert autograd.observers == before
    assert not tracemalloc.is_tracing()


def test_array_that_several_keep_counts_once_and_where_it_is_first():
    layer = Linear(3, 3, bias=False, rng=np.random.default_rng(0))
    x = np.ones((5, 3), np.float32)
    y = layer(x)
    loss = F.sum(F.exp(y) * y)  # exp keeps its result, which mul keeps as well, and mul keeps y
    kept = ledger.keeps(loss, {"first.weight": layer.weight})
    assert [(one.layer, one.operation, one.saved) for one in kept] == [
        ("first", "linear", x.nbytes),
        ("first", "exp", x.nbytes),
        ("first", "mul", ledger._owner(y.data).nbytes),  # with what its alignment takes
        ("first", "sum", x.nbytes),
    ]
    assert [one.gradient for one in kept] == [layer.weight.data.nbytes, 0, 0, 0]


def test_more_of_everything_is_predicted_to_hold_more():
    small = predict(SMALL.model(), SMALL.B, SMALL.T)
    for change in ({"B": 4}, {"C": 16}, {"n_layer": 2}, {"vocab_size": 20}):
        w = dataclasses.replace(SMALL, **change)
        more = predict(w.model(), w.B, w.T)
        assert more.peak > small.peak
        assert sum(more.activations.values()) > sum(small.activations.values())
