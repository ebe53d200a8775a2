"""The roofs as limits, and the names of the bounds."""

import pytest

from minillm.observe import roofline


def test_roofs_of_the_nearest_number_of_threads(measured):
    assert roofline.of_machine(measured, 8).peak == 200e9
    assert roofline.of_machine(measured, 1).peak == 100e9
    bandwidth = roofline.of_machine(measured, 1).bandwidth
    assert bandwidth == {"L1": 400e9, "L2": 120e9, "DRAM": 10e9}  # the faster of read and copy


def test_level_is_the_fastest_that_holds_the_working_set(roof):
    sizes = {0: "L1", 16_000: "L1", 16_001: "L2", 1_000_001: "DRAM", 1e12: "DRAM"}
    assert {size: roof.level(size) for size in sizes} == sizes


def test_roof_time_is_the_longer_of_arithmetic_and_memory(roof):
    assert roof.seconds(flop=200e9, bytes=1000) == 1
    assert roof.seconds(flop=1, bytes=20e9) == 1
    assert roof.side(flop=200e9, bytes=1000) == "compute"
    assert roof.side(flop=1, bytes=20e9) == "DRAM"
    assert roof.side(flop=1, bytes=10_000) == "L1"


@pytest.mark.parametrize(
    ("side", "fraction", "seconds", "name"),
    [
        ("compute", 0.9, 1, "compute"),
        ("L2", roofline.FAR, 1e-6, "L2"),
        ("compute", 0.01, roofline.SHORT / 2, "overhead"),
        ("DRAM", 0.01, roofline.SHORT * 2, "implementation"),
        ("", None, 1, "python"),
    ],
)
def test_bound_has_a_name(side, fraction, seconds, name):
    assert roofline.bound(side, fraction, seconds) == name
