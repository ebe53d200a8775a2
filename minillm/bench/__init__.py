"""`minillm bench`: how fast, beside what, on which machine, and how sure.

`run` returns one JSON object; `--json FILE` writes it and docs/results/ keeps such files:

    schema      1, raised when a field changes its meaning
    benchmark   "matmul", "softmax", "ops", "train" or "decode"
    command     what to type to measure it again
    date        "2025-01-31", UTC
    turns       turns of each contestant
    preset      of ops, train and decode; null for the others
    machine     {"cpu", "cores", "os", "load": [1, 5, 15 minutes] or null}, the load at the start
    versions    {"minillm", "python", "numpy", "numpy_blas", "torch"}; null: unknown or not compared
    code        {"compiled", "target", "compiler", "openmp", "kernels": {kernel: implementation}}
    notes       [text], what a reader should know about how the numbers came about
    cases       [{"name", "group", "threads",
                  "work":        {"flop", "byte", "token"}: of one call, those that apply
                  "contestants": {name: {"seconds": {"median", "q1", "q3"}: per call,
                                         "turns": [seconds per call], "calls": in a turn,
                                         "rates": {unit: work per second at the median},
                                         "held": turns that began on one thread, as the guard
                                                 against busy cores wanted it}},
                  "ratios":      {rival: {"median", "q1", "q3"}}}]
    summary     [{"group", "threads", "cases": how many, "ratios": {rival: geometric mean}}], of
                the median ratios over the cases of a group
    memory      of train: {name: {"peak_resident": bytes, "step": bytes or null}}; else {}

The first contestant is minillm; a ratio is a rival's seconds over the first one's, turn by turn, so
that above 1 minillm is the faster. Times are wall clock. A step of `train` holds `step` bytes more
at its height than between steps (see minillm.bench.memory).
"""

from __future__ import annotations

import dataclasses
import datetime
import shlex
from collections.abc import Callable, Iterable
from typing import Any

from minillm.errors import UserError

BENCHMARKS = ("matmul", "softmax", "ops", "train", "decode")
WITH_MODEL = ("ops", "train", "decode")
BLOCKS = {"matmul": 0.03, "softmax": 0.03, "ops": 0.02, "train": 0.3, "decode": 0.2}  # seconds
REMEDY = 'pip install "minillm[bench]"'


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.  kernels: one contestant for each choice; small: toy sizes, for tests.

    Raises: UserError for what does not exist or does not go together.
    """

    benchmark: str
    against: str | None = None
    turns: int = 7
    threads: int | None = None
    preset: str | None = None
    kernels: tuple[str, ...] = ()
    small: bool = False

    def __post_init__(self) -> None:
        if self.benchmark not in BENCHMARKS:
            raise UserError(f"no benchmark {self.benchmark!r}; there are {', '.join(BENCHMARKS)}")
        for flag, value in (("--turns", self.turns), ("--threads", self.threads)):
            if value is not None and value < 1:
                raise UserError(f"{flag} must be at least 1, got {value}")
        if self.preset and self.benchmark not in WITH_MODEL:
            raise UserError(f"--preset goes with {', '.join(WITH_MODEL)}, not {self.benchmark}")
        if self.against and self.benchmark == "ops":
            raise UserError("ops compares with the NumPy specifications; leave --against out")
        if len(set(self.kernels)) < len(self.kernels):
            raise UserError("--kernels: the same choice is given twice; leave one out")

    def command(self) -> str:
        words = ["minillm", "bench", self.benchmark]
        words += ["--against", self.against] if self.against else []
        words += ["--turns", str(self.turns)]
        words += ["--threads", str(self.threads)] if self.threads else []
        words += ["--preset", self.preset] if self.preset else []
        for spec in self.kernels:
            words += ["--kernels", spec]
        return shlex.join(words)


def run(options: Options, progress: Callable[[Iterable], Iterable] = iter) -> dict[str, Any]:
    """Measure; the result is the JSON object of the module's docstring.

    progress: gets the cases and gives them on, such as tqdm.
    Raises: UserError if PyTorch is asked for and missing, KernelError for an unknown kernel.
    """
    from minillm import kernels
    from minillm.bench import machine, timing

    torch = _import_torch() if options.against else None
    for spec in options.kernels:  # a mistake shows before the long work
        with kernels.using(spec):
            pass
    found = machine.describe()
    threads = options.threads or kernels.get_num_threads()
    block = 1e-4 if options.small else BLOCKS[options.benchmark]
    with timing.limit(threads, torch):
        memory = _memory(options, threads)
        cases = [
            _as_json(case, timing.measure(case, options.turns, block, torch))
            for case in progress(_cases(options, threads, torch))
        ]
    return {
        "schema": 1,
        "benchmark": options.benchmark,
        "command": options.command(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "turns": options.turns,
        "preset": _workload(options).preset if options.benchmark in WITH_MODEL else None,
        "machine": found,
        "versions": machine.versions(torch),
        "code": machine.code(),
        "notes": machine.notes(found, threads) + _notes(options, cases),
        "cases": cases,
        "summary": _summary(cases),
        "memory": memory,
    }


def _import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise UserError(f"--against torch: PyTorch is not installed; {REMEDY}") from None
    return torch


def _workload(options: Options) -> Any:
    from minillm.bench import workload

    return workload.SMALL if options.small else workload.of_preset(options.preset or "char-small")


def _specs(options: Options) -> list[str]:
    return list(options.kernels) or [""]


def _cases(options: Options, threads: int, torch: Any) -> Iterable:
    """The cases, made one by one where they are large."""
    from minillm.bench import models, ops, products

    specs, small = _specs(options), options.small
    match options.benchmark:
        case "matmul":
            each = [threads] if options.threads else sorted({1, threads})
            return products.matmul_cases(specs, each, small, torch)
        case "softmax":
            return products.softmax_cases(specs, threads, small, torch)
        case "ops":
            return ops.cases(_workload(options), specs, threads)
        case "train":
            return [models.train_case(_workload(options), specs, threads, torch)]
        case _:
            return models.decode_cases(_workload(options), specs, threads, torch)


def _memory(options: Options, threads: int) -> dict[str, dict]:
    if options.benchmark != "train":
        return {}
    from minillm.bench import memory, products

    names = {products.name_of(spec): spec for spec in _specs(options)}
    if options.against:
        names["torch"] = ""
    return memory.of_contestants(_workload(options), names, threads)


def _as_json(case: Any, times: dict[str, Any]) -> dict[str, Any]:
    from minillm.bench import timing

    contestants = {}
    for name, t in times.items():
        seconds = timing.spread(t.seconds)
        contestants[name] = {
            "seconds": seconds,
            "turns": t.seconds,
            "calls": t.calls,
            "rates": {unit: amount / seconds["median"] for unit, amount in case.work.items()},
            "held": t.held,
        }
    return {
        "name": case.name,
        "group": case.group,
        "threads": case.threads,
        "work": case.work,
        "contestants": contestants,
        "ratios": timing.ratios(times),
    }


def _summary(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from minillm.bench import timing

    groups: dict[tuple[str, int], list[dict]] = {}
    for case in cases:
        groups.setdefault((case["group"], case["threads"]), []).append(case)
    summary = []
    for (group, threads), members in groups.items():
        # Only rivals that take part in every case: a mean over other cases is no comparison.
        rivals = [r for r in members[0]["ratios"] if all(r in m["ratios"] for m in members)]
        means = {
            r: timing.geometric_mean([m["ratios"][r]["median"] for m in members]) for r in rivals
        }
        summary.append({"group": group, "threads": threads, "cases": len(members), "ratios": means})
    return summary


def _notes(options: Options, cases: list[dict[str, Any]]) -> list[str]:
    from minillm.bench import ops

    found = []
    held = sum(c["held"] for case in cases for c in case["contestants"].values())
    if held:
        found.append(
            f"minillm began {held} turns on one thread, because threads had to wait for a core "
            "(minillm/kernels/threads.py): its times on several threads are too long"
        )
    if options.benchmark == "ops" and ops.missing():
        found.append(
            f"not measured, as bench has no arguments for them: {', '.join(ops.missing())}"
        )
    if options.benchmark == "decode" and options.against:
        found.append("torch generates as nanoGPT does, without a cache of keys and values")
    return found
