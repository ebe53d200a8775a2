"""The cases of `bench train` and `bench decode`: the whole model beside its twin in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minillm import optim
from minillm.bench import twin
from minillm.bench.products import name_of, own
from minillm.bench.timing import Case, Contestant
from minillm.bench.workload import Workload
from minillm.models import GPT

DECODED, TOP_K = 64, 40  # tokens generated, at most the context; candidates of top-k


def step(w: Workload) -> Callable[[], float]:
    """A training step on the workload's batch, as train.update does it; returns the loss."""
    model = GPT(w.model())
    optimizer = optim.AdamW(model.parameters(), w.learning_rate, (0.9, w.beta2), weight_decay=0.1)
    x, y = w.batch()

    def call() -> float:
        _, loss = model(x, y)
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return call


def train_case(w: Workload, specs: list[str], threads: int, torch: Any = None) -> Case:
    """A training step; every contestant has a model and an optimizer of its own."""
    contestants = [Contestant(name_of(s), step(w), s, is_minillm=True) for s in specs]
    if torch:
        contestants.append(Contestant("torch", twin.step_elsewhere(w, threads)))
    name = f"{w.preset} B{w.B} T{w.T} L{w.n_layer} H{w.n_head} C{w.C}"
    work = {"token": w.rows, "flop": w.flops()}
    return Case(name, threads, work, contestants, "train")


def decode_cases(w: Workload, specs: list[str], threads: int, torch: Any = None) -> list[Case]:
    """From one token to the end of the context (64 tokens at most), greedy and top-k."""
    model, n = GPT(w.model()), min(w.block_size, DECODED)
    cases = []
    for name, top_k in (("greedy", None), (f"top-{TOP_K}", TOP_K)):
        contestants = own(specs, _decode(model, n, top_k))
        if torch:
            generate = twin.generate(torch, model, n, top_k)
            contestants.append(Contestant("torch", generate))
        cases.append(Case(f"{w.preset} {name}", threads, {"token": n}, contestants, "decode"))
    return cases


def _decode(model: GPT, n: int, top_k: int | None) -> Callable[[], list[int]]:
    temperature = 0.0 if top_k is None else 1.0
    rng = np.random.default_rng(0)
    return lambda: list(model.stream([0], n, temperature, top_k, rng=rng))
