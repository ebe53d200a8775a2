"""The picture of a run: its losses over the iterations, drawn from log.jsonl."""

from __future__ import annotations

from pathlib import Path

from minillm import checkpoint

PICTURE = "loss.png"


def save_loss_curve(run: str | Path) -> Path | None:
    """Draw loss.png into the run directory and return its path.

    Returns None, and draws nothing, where matplotlib is not installed or nothing is logged yet.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no window system, no global state
    except ModuleNotFoundError:
        return None
    log = list(checkpoint.read_log(run))
    steps = [line for line in log if "loss" in line]
    evaluations = [line for line in log if "val_loss" in line]
    if not steps:
        return None

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="iteration", ylabel="loss (nats per token)")
    axes.plot(
        [line["iter"] for line in steps],
        [line["loss"] for line in steps],
        color="lightgrey",
        label="each batch",
    )
    for key, label in (("train_loss", "training split"), ("val_loss", "validation split")):
        at = [line["iter"] for line in evaluations]
        axes.plot(at, [line[key] for line in evaluations], marker="o", label=label)
    axes.legend()
    path = Path(run) / PICTURE
    figure.savefig(path, dpi=120)
    return path
