"""Roofs by hand, so that no test measures the machine."""

import pytest

from minillm.observe import roofline, roofs


@pytest.fixture
def measured(monkeypatch):
    """What `minillm profile` takes for this machine's roofs."""
    read = {"L1": 400.0, "L2": 100.0, "DRAM": 10.0}
    copy = {"L1": 300.0, "L2": 120.0, "DRAM": 8.0}
    found = roofs.Roofs(
        target="by hand",
        threads=2,
        gflops={1: 100.0, 2: 200.0},
        read={n: {level: n * rate for level, rate in read.items()} for n in (1, 2)},
        copy={n: {level: n * rate for level, rate in copy.items()} for n in (1, 2)},
        levels={"L1": 16_000, "L2": 1_000_000, "DRAM": 1_000_000_000},
        date="2025-01-31T12:00:00",
        cached=True,
    )
    monkeypatch.setattr(roofs, "load", lambda *how: found)
    return found


@pytest.fixture
def roof(measured):
    return roofline.of_machine(measured, 2)
