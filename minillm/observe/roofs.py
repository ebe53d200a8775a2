"""The machine's roofs, measured: how many FLOP and bytes a second any kernel can reach here.

`minillm roofs` prints them, and `--json` prints the fields of `Roofs` as they are, the numbers of
threads as strings. They are kept in the user's cache directory, a file for each CPU name, target,
number of threads and version of minillm; the same command with `--again` measures anew.

The best of many short repetitions counts, not their median: whatever disturbs (another process, a
neighbour on the same chip, a clock that has yet to rise) only ever slows, and a roof is what can be
reached. The repetitions of one quantity are spread over the whole time, so that a disturbance of
a second spoils none.
Source: Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785; McCalpin 1995, STREAM.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import mmap
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count, cycle
from pathlib import Path
from time import perf_counter

import numpy as np

import minillm
from minillm import cache, kernels, machine
from minillm.errors import KernelError, UserError
from minillm.kernels import roof

SECONDS = 7.0  # of sweeps over all quantities
BLOCK = 0.01  # seconds of one repetition: a thread's start, some µs, does not show
ROUNDS = 1000  # of multiply-adds, at least: some 10 µs
PIECES = 8  # of DRAM's working set, taken in turn: a pass over all of it would last 60 ms
SMALLEST_DRAM, LARGEST_DRAM = 256 << 20, 1 << 30  # bytes
ALL_COUNTS = 8  # threads up to which every number of them is measured


@dataclasses.dataclass(frozen=True)
class Roofs:
    """What this machine reaches.  GB/s: 10⁹ bytes a second; levels: a CPU may lack L3.

    gflops, read, copy: by number of threads, each up to 8, then 16, 32, … and `threads`.
    copy counts both ways, without the line that a cache fetches before it is written to.
    levels: the working sets of all `threads` together; fewer threads take less of the caches.
    """

    target: str  # of the kernels they were measured with, such as "avx512"
    threads: int  # the most measured
    gflops: dict[int, float]  # threads → peak of multiply-adds, each 2 FLOP
    read: dict[int, dict[str, float]]  # threads → {"L1", "L2", "L3", "DRAM"} → GB/s
    copy: dict[int, dict[str, float]]
    levels: dict[str, int]  # level → bytes
    date: str  # ISO, UTC, to the second
    cached: bool  # read from the cache directory


@dataclasses.dataclass(frozen=True)
class _Quantity:
    """run(times) does `times · work` FLOP or bytes on so many threads."""

    threads: int
    work: float
    run: Callable[[int], object]


def load(
    threads: int | None = None,
    progress: Callable[[Iterable], Iterable] | None = None,
    again: bool = False,
) -> Roofs:
    """This machine's cached roofs; measured and cached where there are none, or `again`.

    Arguments and errors are those of `measure`. A cache that cannot be written is done without.
    """
    threads = _threads(threads)
    path = cache_file(threads)
    if not again and (kept := _read(path)):
        return kept
    found = measure(threads, progress)
    with suppress(UserError):
        cache.write(path, json.dumps(dataclasses.asdict(found), indent=1).encode())
    return found


def measure(
    threads: int | None = None, progress: Callable[[Iterable], Iterable] | None = None
) -> Roofs:
    """Measure now, on 1 … threads threads (None: as many as the kernels use), in under 10 s.

    progress: gets the sweeps over all quantities and gives them on, such as tqdm.
    Raises: KernelError without compiled kernels, UserError for less than 1 thread.
    """
    threads = _threads(threads)
    counts, found, memory = _counts(threads), machine.caches(), machine.available_memory()
    sizes = {
        (level, n): working_set(level, n, threads, found, memory)
        for level in (*found, "DRAM")
        for n in counts
    }
    buffer = _buffer(max(sizes.values()), threads)
    quantities = {("gflops", n): _multiply_add(n) for n in counts}
    for (level, n), size in sizes.items():
        rows = _rows(buffer, n)[:, : size // 4 // n]
        pieces = np.split(rows, PIECES if level == "DRAM" else 1, axis=1)
        quantities["read", n, level] = _in_turn([_read_bandwidth(piece) for piece in pieces])
        quantities["copy", n, level] = _in_turn([_copy_bandwidth(piece) for piece in pieces])
    rates = _best_rates(quantities, progress or iter)
    levels = {level: size for (level, n), size in sizes.items() if n == threads}
    return Roofs(
        target=kernels.info()["target"],
        threads=threads,
        gflops={n: rates["gflops", n] for n in counts},
        read={n: {level: rates["read", n, level] for level in levels} for n in counts},
        copy={n: {level: rates["copy", n, level] for level in levels} for n in counts},
        levels=levels,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        cached=False,
    )


def working_set(
    level: str, n: int, threads: int, caches: dict[str, tuple[int, int]], memory: int | None
) -> int:
    """Bytes, in all, that n of at most `threads` threads go over to measure this level.

    Half of each thread's share of L1 or L2. L3: the geometric mean of the L2s and the L3s that n
    threads can use, so as far above the one as below the other. DRAM: eight times the last cache,
    but 256 MB … 1 GB, and no more than a quarter of the available memory.
    """
    if level == "DRAM":
        last, shared = list(caches.values())[-1]
        total = max(8 * last * math.ceil(threads / shared), SMALLEST_DRAM)
        total = min(total, LARGEST_DRAM, memory // 4) if memory else SMALLEST_DRAM
    elif level == "L3":
        (L2, shared_L2), (L3, shared_L3) = caches["L2"], caches["L3"]
        total = math.sqrt(
            L2 * min(n, math.ceil(threads / shared_L2)) * L3 * math.ceil(n / shared_L3)
        )
    else:
        size, shared = caches[level]
        total = n * size / 2 / min(n, shared)
    unit = n * 8192  # the halves of a copy lie whole pages apart, so no store delays a load
    return max(1, round(total / unit)) * unit


def cache_file(threads: int) -> Path:
    """Where the roofs of this machine, target, number of threads and version are kept."""
    target = kernels.info()["target"]
    name = f"{machine.cpu_name()} {target} {threads} threads {minillm.__version__}"
    return cache.directory() / f"roofs-{re.sub('[^a-z0-9.]+', '-', name.lower())}.json"


def as_text(roofs: Roofs) -> str:
    """A table: a row for each roof, a column for each number of threads."""
    counts = list(roofs.gflops)
    origin = "cached; --again measures anew" if roofs.cached else "new"
    lines = [
        f"{machine.cpu_name()}, {roofs.target}: measured {roofs.date} ({origin})",
        "",
        f"{'':22}" + "".join(f"{n:>4} thread{'s' if n > 1 else ' '}" for n in counts),
        f"{'multiply-add, GFLOP/s':22}" + _cells(roofs.gflops[n] for n in counts),
    ]
    for kind, rates in (("read", roofs.read), ("copy", roofs.copy)):
        for level, size in roofs.levels.items():
            name = f"{kind}, GB/s, {level}"
            cells = _cells(rates[n][level] for n in counts)
            lines.append(f"{name:22}{cells}    of {_size(size)}")
    return "\n".join(lines)


def _threads(threads: int | None) -> int:
    """The number asked for, or that of the kernels. Raises as `measure`."""
    if not kernels.info()["compiled"]:
        raise KernelError(f"roofs need the compiled kernels: {kernels.info()['remedy']}")
    if threads is not None and threads < 1:
        raise UserError(f"--threads must be at least 1, got {threads}")
    return threads or kernels.info()["threads"]


def _counts(threads: int) -> list[int]:
    """The numbers of threads to measure: each up to 8, then the powers of two, and the last."""
    powers = [2**i for i in range(threads.bit_length()) if 2**i > ALL_COUNTS]
    return sorted({*range(1, min(threads, ALL_COUNTS) + 1), *powers, threads})


def _buffer(size: int, threads: int) -> np.ndarray:
    """Zeros, in huge pages where there are any, as NumPy's large arrays are: (size / 4,) float32.

    Not from malloc, which keeps what is freed (ml_keep_memory in csrc/threads.c). Each page is
    written to, by the thread that will use it: all untouched pages are one page of zeros, which is
    never far from the core.
    """
    if hasattr(mmap, "MAP_PRIVATE"):
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        memory = mmap.mmap(-1, size)  # Windows
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    buffer = np.frombuffer(memory, np.float32)
    x, y = np.split(_rows(buffer, threads), 2, axis=1)
    roof.copy(x, y)
    roof.copy(y, x)
    return buffer


def _rows(buffer: np.ndarray, threads: int) -> np.ndarray:
    """The buffer, cut into one row for each thread at a multiple of 4 KB: (threads, n)."""
    n = len(buffer) // threads // 1024 * 1024
    return buffer[: threads * n].reshape(threads, n)


def _multiply_add(threads: int) -> _Quantity:
    flop, _ = roof.multiply_add(ROUNDS, threads)
    return _Quantity(threads, flop, lambda times: roof.multiply_add(times * ROUNDS, threads))


def _read_bandwidth(x: np.ndarray) -> _Quantity:
    return _Quantity(len(x), x.nbytes, lambda times: roof.read(x, times))


def _copy_bandwidth(rows: np.ndarray) -> _Quantity:
    x, y = np.split(rows, 2, axis=1)
    return _Quantity(len(rows), rows.nbytes, lambda times: roof.copy(x, y, times))


def _in_turn(equals: list[_Quantity]) -> _Quantity:
    """So many equal quantities, one at a time, round and round."""
    first, *others = equals
    if not others:
        return first
    turns = cycle(equals)

    def run(times: int) -> None:
        for _ in range(times):
            next(turns).run(1)

    return dataclasses.replace(first, run=run)


def _best_rates(
    quantities: dict[tuple, _Quantity], progress: Callable[[Iterable], Iterable]
) -> dict[tuple, float]:
    """The best rate of each in 10⁹ a second, of sweeps over all of them for SECONDS."""
    times = {key: _calibrate(quantity) for key, quantity in quantities.items()}
    best = dict.fromkeys(quantities, 0.0)
    for _ in progress(_sweeps(perf_counter() + SECONDS)):
        for key, quantity in quantities.items():
            rate = times[key] * quantity.work / _seconds(quantity, times[key]) / 1e9
            best[key] = max(best[key], rate)
    return best


def _sweeps(end: float) -> Iterator[int]:
    """1, 2, 3, … until the clock has passed `end`."""
    for sweep in count(1):
        yield sweep
        if perf_counter() > end:
            return


def _calibrate(quantity: _Quantity) -> int:
    """How many times make a BLOCK; the first touches the memory and is not counted."""
    times, seconds = 1, _seconds(quantity, 1)
    while (seconds := _seconds(quantity, times)) < BLOCK / 4:
        times *= 4
    return max(1, round(times * BLOCK / seconds))


def _seconds(quantity: _Quantity, times: int) -> float:
    roof.multiply_add(1, quantity.threads)  # wakes the threads
    start = perf_counter()
    quantity.run(times)
    return perf_counter() - start


def _read(path: Path) -> Roofs | None:
    """The roofs kept in this file; None where there is none, or not one that can be trusted."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        counts, levels = _counts(kept["threads"]), kept["levels"]
        kept["gflops"] = {n: kept["gflops"][str(n)] for n in counts}
        for kind in ("read", "copy"):
            kept[kind] = {n: {level: kept[kind][str(n)][level] for level in levels} for n in counts}
        roofs = Roofs(**kept | {"cached": True})
        numbers = [*roofs.gflops.values(), *levels.values()]
        for rates in (*roofs.read.values(), *roofs.copy.values()):
            numbers += rates.values()
        return roofs if all(0 < number < math.inf for number in numbers) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _cells(rates: Iterable[float]) -> str:
    return "".join(f"{rate:12,.1f}" for rate in rates)


def _size(size: int) -> str:
    unit, name = (1 << 20, "MB") if size >= 1 << 20 else (1 << 10, "KB")
    return f"{size / unit:.3g} {name}"
