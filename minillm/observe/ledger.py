"""The memory ledger: what a training step holds, predicted from its shapes and measured.

tracemalloc sees the memory of Python and of NumPy's arrays (which NumPy reports to it), not the
scratch of the C kernels (a few packed tiles for each thread). What is saved for backward is found
by walking the graph and looking into what each vjp closes over; an array that several keep counts
where it is kept first, and is freed when backward has passed that one. `measure` returns

    rows         [{"name", "predicted", "measured"}] in bytes:
                 parameters, gradients (of all parameters, at the end of backward), optimizer state,
                 activations (saved for backward, at the end of forward), temporaries (what the
                 peak holds besides parameters, state, and what is then left of activations and
                 there of gradients: the gradients on their way, mostly), peak
    activations  [{"layer", "operation", "predicted", "measured"}] in order of the forward pass
    timeline     [{"seconds", "name", "phase", "live", "high"}]: at the end of each operation, bytes
                 that are held, and the most that were since the end of the one before
    peak         {"name", "phase"} of the operation at the peak
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from types import FunctionType
from typing import Any

import numpy as np

from minillm import autograd, data, optim
from minillm.autograd import Node, Tensor
from minillm.bench.workload import Workload
from minillm.models import GPT
from minillm.observe.predict import predict
from minillm.observe.profiler import BACKWARD, FORWARD
from minillm.observe.text import align

CLIP = 1.0


class Recorder:
    """Listens to a step and notes the traced memory at the end of each operation."""

    def __init__(self, resident: int):
        self.resident = resident  # bytes that were there before tracing began
        self.timeline: list[dict[str, Any]] = []

    def __enter__(self) -> Recorder:
        self.timeline.clear()
        tracemalloc.start()
        autograd.observers.append(self._note)
        self._start = perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        autograd.observers.remove(self._note)
        tracemalloc.stop()

    def _note(self, name: str, phase: str, seconds: float, start: float) -> None:
        live, high = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        at = {"seconds": perf_counter() - self._start, "name": name, "phase": phase}
        self.timeline.append(at | {"live": self.resident + live, "high": self.resident + high})


@dataclass(frozen=True)
class Kept:
    """What one node of the graph holds: bytes saved for backward, bytes of gradients that it is the
    first to make, in backward's order."""

    layer: str
    operation: str
    saved: int
    gradient: int


def measure(w: Workload) -> dict[str, Any]:
    """The object of this module's docstring, from the second step of a model like w's."""
    model = GPT(w.model())
    optimizer = optim.AdamW(model.parameters(), w.learning_rate, weight_decay=0.1)
    parameters = sum(p.data.nbytes for p in model.parameters())
    state = sum(a.nbytes for slot in optimizer.state.values() for a in slot)
    recorder = Recorder(parameters + state)
    for _ in range(2):  # the first one warms up
        with recorder:
            kept, gradients = _step(model, optimizer, w)
    found = predict(w.model(), w.B, w.T)
    at = max(range(len(recorder.timeline)), key=lambda i: recorder.timeline[i]["high"])
    peak = recorder.timeline[at]
    alive = parameters + state + _alive(kept, recorder.timeline, at)
    rows = [
        ("parameters", found.parameters, parameters),
        ("gradients", found.gradients, gradients),
        ("optimizer state", found.state, state),
        ("activations", sum(found.activations.values()), sum(one.saved for one in kept)),
        ("temporaries", found.temporaries, peak["high"] - alive),
        ("peak", found.peak, peak["high"]),
    ]
    return {
        "rows": [dict(zip(("name", "predicted", "measured"), row, strict=True)) for row in rows],
        "activations": _by_layer(kept, found.activations),
        "timeline": recorder.timeline,
        "peak": {"name": peak["name"], "phase": peak["phase"]},
    }


def _step(model: GPT, optimizer: optim.AdamW, w: Workload) -> tuple[list[Kept], int]:
    """A training step; what its graph holds after forward, and the bytes of all gradients."""
    rng = np.random.default_rng(0)
    x, y = data.sample_batch(rng.integers(w.vocab_size, size=100 * w.T + 1), w.B, w.T, rng)
    _, loss = model(x, y)
    kept = keeps(loss, dict(model.named_parameters()))
    loss.backward()
    gradients = sum(p.grad.nbytes for p in model.parameters())
    optim.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()
    return kept, gradients


def keeps(loss: Tensor, parameters: dict[str, Tensor]) -> list[Kept]:
    """What each node below loss holds, in order of the forward pass.

    A node's layer is that of its parameter ("h.0", "wte"), or else of the node before it.
    """
    nodes = _graph(loss.node)
    names = {id(p): name for name, p in parameters.items()}
    counted = {id(_owner(p.data)) for p in parameters.values()}
    sizes, layers, layer = [], [], ""
    for node in nodes:
        arrays = {id(a): a for a in map(_owner, _arrays(node.vjp, set()))}
        sizes.append(sum(a.nbytes for key, a in arrays.items() if key not in counted))
        counted |= arrays.keys()
        own = [names[id(i)] for i in node.inputs if id(i) in names]
        layer = _layer(own[0]) if own else layer
        layers.append(layer)
    made, gradients = set(), []
    for node in reversed(nodes):
        leaves = [i for i in node.inputs if isinstance(i, Tensor) and id(i) not in made]
        made |= {id(leaf) for leaf in leaves}
        gradients.append(sum(leaf.data.nbytes for leaf in leaves))
    rows = zip(nodes, layers, sizes, reversed(gradients), strict=True)
    return [Kept(layer, node.name, saved, gradient) for node, layer, saved, gradient in rows]


def _graph(root: Node) -> list[Node]:
    """Every node below root and itself, in order of the forward pass."""
    found, stack = {root}, [root]
    while stack:
        new = {i for i in stack.pop().inputs if isinstance(i, Node)} - found
        found |= new
        stack += new
    return sorted(found, key=lambda node: node.order)


def _arrays(value: object, seen: set[int]) -> Iterator[np.ndarray]:
    """The arrays that a closure, or what it holds, refers to."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            yield from _arrays(cell.cell_contents, seen)
    elif isinstance(value, partial):
        yield from _arrays([value.func, *value.args, *value.keywords.values()], seen)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _arrays(item, seen)


def _owner(a: np.ndarray) -> np.ndarray:
    """The array whose memory a view shows."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def _layer(parameter: str) -> str:
    """ "h.0.attn.c_attn.weight" → "h.0", "ln_f.weight" → "ln_f"."""
    first, second, *_ = parameter.split(".")
    return f"{first}.{second}" if second.isdigit() else first


def _alive(kept: list[Kept], timeline: list[dict[str, Any]], at: int) -> int:
    """Bytes of activations and gradients while event number `at` of the timeline ran."""
    phases = [event["phase"] for event in timeline[:at]]
    if timeline[at]["phase"] == FORWARD:
        return sum(one.saved for one in kept[: phases.count(FORWARD) + 1])
    running = max(0, len(kept) - 1 - phases.count(BACKWARD))  # backward passes them in reverse
    return sum(k.saved for k in kept[: running + 1]) + sum(k.gradient for k in kept[running:])


def _by_layer(kept: list[Kept], predicted: dict[tuple[str, str], int]) -> list[dict[str, Any]]:
    measured: dict[tuple[str, str], int] = {}
    for one in kept:
        key = one.layer, one.operation
        measured[key] = measured.get(key, 0) + one.saved
    return [
        {
            "layer": key[0],
            "operation": key[1],
            "predicted": predicted.get(key, 0),
            "measured": measured.get(key, 0),
        }
        for key in dict.fromkeys([*measured, *predicted])
    ]


def as_text(ledger: dict[str, Any]) -> str:
    """Two tables: the whole, and activations summed over layers by operation."""
    rows = [["memory", "predicted", "measured", "ratio"]]
    rows += [[row["name"], *_cells(row)] for row in ledger["rows"]]
    by_operation: dict[str, dict[str, int]] = {}
    for row in ledger["activations"]:
        total = by_operation.setdefault(row["operation"], {"predicted": 0, "measured": 0})
        for key in total:
            total[key] += row[key]
    saved = [["activations of", "predicted", "measured", "ratio"]]
    saved += [[name, *_cells(total)] for name, total in by_operation.items()]
    where = f"the peak is in {ledger['peak']['name']} ({ledger['peak']['phase']})"
    return "\n\n".join([align(rows), where, align(saved)])


def _cells(row: dict[str, Any]) -> list[str]:
    ratio = row["measured"] / row["predicted"] if row["predicted"] else 0.0
    numbers = [f"{row[key] / 1e6:.3f} MB" for key in ("predicted", "measured")]
    return [*numbers, f"{ratio:.3f}" if ratio else ""]
