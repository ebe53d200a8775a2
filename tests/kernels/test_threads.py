"""One thread while the cores are busy, and all of them again later."""

import pytest

from minillm.kernels import threads as guard


@pytest.fixture
def machine(monkeypatch):
    """A clock, and the seconds that threads waited for a core, both to be set by the test."""
    state = {"now": 100.0, "waited": 0.0}
    monkeypatch.setattr(guard, "perf_counter", lambda: state["now"])
    monkeypatch.setattr(guard, "waited_for_cores", lambda: state["waited"])
    for name, value in (("_threads", 2), ("_looked", 0.0), ("_alone_until", 0.0)):
        monkeypatch.setattr(guard, name, value)
    return state


def after(machine, seconds, waited):
    """threads() so much later, in which time threads waited so much longer."""
    machine["now"] += seconds
    machine["waited"] += waited
    return guard.threads()


def test_threads_are_all_of_them_while_the_cores_are_free(machine):
    assert [after(machine, 0.15, 0.15 * 0.05) for _ in range(20)] == [2] * 20


def test_threads_is_one_for_a_while_after_waiting_for_cores(machine):
    after(machine, 0.15, 5.0)  # what was before the first look is not its business
    after(machine, 0.15, 0.15 * 0.4)
    assert after(machine, 0.01, 0) == 1
    assert after(machine, guard.ALONE - 0.1, 10.0) == 1
    assert after(machine, 0.2, 0) == 2
    assert after(machine, 0.15, 0.0) == after(machine, 0.15, 0.0) == 2


def test_threads_is_one_when_one_was_asked_for(machine, monkeypatch):
    monkeypatch.setattr(guard, "_threads", 1)
    assert after(machine, 1.0, 0.0) == 1


def test_waited_for_cores_sums_the_second_number_of_every_thread(tmp_path, monkeypatch):
    for task, line in (("7", b"90 1500000000 4\n"), ("8", b"1 250000000 2\n")):
        (tmp_path / task).mkdir()
        (tmp_path / task / "schedstat").write_bytes(line)
    monkeypatch.setattr(guard, "TASKS", f"{tmp_path}/*/schedstat")
    assert guard.waited_for_cores() == 1.75


def test_waited_for_cores_is_zero_where_the_system_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "TASKS", f"{tmp_path}/none/*/schedstat")
    assert guard.waited_for_cores() == 0
