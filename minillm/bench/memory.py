"""The memory of a training step, measured in a fresh process for each contestant.

`python -m minillm.bench.memory` is that process: it reads {"contestant", "threads", "workload"}
from its arguments as JSON and writes one line of JSON, the result of `measure`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from minillm import kernels
from minillm.bench import models, twin
from minillm.bench.timing import limit
from minillm.bench.workload import Workload
from minillm.errors import UserError
from minillm.models import GPT

STEPS = 3  # until every buffer has been allocated


def of_contestants(w: Workload, names: dict[str, str], threads: int) -> dict[str, dict]:
    """By name, what `measure` finds.  names: contestant → its choice of kernels."""
    found = {}
    for name, spec in names.items():
        order = {"contestant": name, "kernels": spec, "threads": threads}
        order["workload"] = dataclasses.asdict(w)
        command = [sys.executable, "-m", "minillm.bench.memory", json.dumps(order)]
        child = subprocess.run(command, capture_output=True, text=True)
        if child.returncode:
            last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
            raise UserError(f"bench train: the process that measures memory failed: {last}")
        found[name] = json.loads(child.stdout)
    return found


def measure(step: Callable[[], object], traced: bool) -> dict[str, int | None]:
    """{"peak_resident": bytes of the process, "step": bytes that a step holds at its height}.

    peak_resident is None where the system does not tell, step unless traced: tracemalloc sees
    Python's and NumPy's memory, not PyTorch's.
    """
    for _ in range(STEPS):
        step()
    result = {"peak_resident": peak_resident(), "step": None}
    if traced:
        tracemalloc.start()
        step()  # what is kept from step to step is now traced as well
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        step()
        result["step"] = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    return result


def peak_resident() -> int | None:
    """Bytes. From /proc where there is one: Linux's ru_maxrss starts with that of the parent."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    order = json.loads(sys.argv[1])
    w = Workload(**order["workload"])
    torch = None
    if order["contestant"] == "torch":
        import torch
    if order["kernels"]:
        kernels.use(order["kernels"])
    with limit(order["threads"], torch):
        step = twin.step(torch, GPT(w.model()), w) if torch else models.step(w)
        print(json.dumps(measure(step, traced=torch is None)))


if __name__ == "__main__":
    main()
