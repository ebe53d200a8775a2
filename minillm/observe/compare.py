"""`minillm compare`: the same training steps under several choices of kernels, in turn A B A B.

Every choice has a model and an optimizer of its own, and draws the same parameters and batches, so
that the losses differ by rounding only: the order of sums and the fusing of products, 2⁻²⁴ of each
intermediate, carried on from step to step. They agree if they stay within TOLERANCE. `run` returns

    schema, date, model, machine, versions, code, threads, roofs    as in minillm.observe.session
    steps       of each choice
    tolerance   relative, of the loss
    choices     [{"kernels": the choice as given,
                  "seconds": {"median", "q1", "q3"}: per step,
                  "speed_up": seconds of the first / seconds of this, the median over the turns,
                  "matmul_share": of the step, "bottleneck": the part with the largest share,
                  "bottleneck_share",
                  "losses": [nats per token], "difference": the largest |loss - the first's| / loss,
                  "agrees": within the tolerance,
                  "profile": the subject's object, see minillm.observe.analysis}]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minillm import kernels
from minillm.bench.workload import Workload
from minillm.observe import roofline, roofs, session
from minillm.observe.analysis import analyse
from minillm.observe.profiler import Profile
from minillm.observe.report import described, header
from minillm.observe.text import align, ms, percent

TOLERANCE = 1e-4


def check(specs: list[str]) -> None:
    """Raises: KernelError for an unknown kernel, before the long work."""
    for spec in specs:
        with kernels.using(spec):
            pass


def run(w: Workload, measured: roofs.Roofs, specs: list[str], steps: int) -> dict[str, Any]:
    """The object of this module's docstring."""
    roof = roofline.of_machine(measured, kernels.info()["threads"])
    runners = [(spec, session.training_step(w), Profile()) for spec in specs]
    losses: list[list[float]] = [[] for _ in specs]
    for turn in range(steps + 1):
        for i, (spec, step, profile) in enumerate(runners):
            with kernels.using(spec):
                if not turn:  # one step to warm up
                    losses[i].append(step(profile))
                else:
                    with profile:
                        losses[i].append(step(profile))
    return session.about(w, measured, roof) | {
        "steps": steps,
        "tolerance": TOLERANCE,
        "choices": [
            _choice(spec, losses[i], losses[0], profile, runners[0][2], roof)
            for i, (spec, _, profile) in enumerate(runners)
        ],
    }


def _choice(
    spec: str,
    losses: list[float],
    first_losses: list[float],
    profile: Profile,
    first: Profile,
    roof: roofline.Roofline,
) -> dict[str, Any]:
    found = analyse(profile, roof)
    turns = zip(first.steps, profile.steps, strict=True)
    difference = float(np.max(np.abs(np.subtract(losses, first_losses)) / np.abs(first_losses)))
    shares = [p["share"] for p in found["parts"] if (p["kind"], p["name"]) == ("kernel", "matmul")]
    return {
        "kernels": spec,
        "seconds": {name: found["seconds"][name] for name in ("median", "q1", "q3")},
        "speed_up": float(np.median([a.seconds / b.seconds for a, b in turns])),
        "matmul_share": sum(shares),
        "bottleneck": described(found["parts"][0]),
        "bottleneck_share": found["parts"][0]["share"],
        "losses": losses,
        "difference": difference,
        "agrees": difference <= TOLERANCE,
        "profile": found,
    }


def as_text(result: dict[str, Any]) -> str:
    """The comparison as a table."""
    choices, steps = result["choices"], result["steps"]
    rows = [["kernels", "ms per step", "speed-up", "matmul", "bottleneck", "loss", "differs by"]]
    for c in choices:
        s = c["seconds"]
        rows.append(
            [
                c["kernels"],
                f"{ms(s['median'])} ({ms(s['q1'])}–{ms(s['q3'])})",
                f"{c['speed_up']:.2f}×",
                percent(c["matmul_share"]),
                f"{c['bottleneck']} {c['bottleneck_share']:.0%}",
                f"{c['losses'][-1]:.6f}",
                f"{c['difference']:.1e}",
            ]
        )
    apart = [c["kernels"] for c in choices if not c["agrees"]]
    verdict = (
        f"the losses of {', '.join(apart)} differ by more than the tolerance"
        if apart
        else "the losses of all steps agree within the tolerance"
    )
    verdict += f", {result['tolerance']:g} of the loss"
    about = f"{steps} steps each, in turn; ms: median and quartiles; loss: after the last step"
    return "\n\n".join([header(result), align(rows), f"{about}\n{verdict}"])
