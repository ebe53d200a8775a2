"""`minillm profile` and `minillm compare`: their flags, and what they print and write."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from minillm import config as settings
from minillm import flags
from minillm.errors import UserError

if TYPE_CHECKING:
    from minillm.bench.workload import Workload
    from minillm.observe.roofs import Roofs

MODEL = ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout", "batch_size")


def add(commands: Any) -> None:
    """Add both commands to the parser's."""
    profile = commands.add_parser("profile", help="where the time of a training step goes")
    profile.set_defaults(command=_profile)
    _add_model(profile, steps=20)
    flags.add_kernels(profile)
    profile.add_argument(
        "--generate", type=int, default=0, metavar="N", help="profile N generated tokens as well"
    )
    compare = commands.add_parser("compare", help="the same steps under several kernel choices")
    compare.set_defaults(command=_compare)
    _add_model(compare, steps=10)
    flags.add_threads(compare)
    compare.add_argument(
        "--kernels",
        metavar="SPEC",
        action="append",
        default=[],
        help="auto, numpy or a list such as matmul=naive; twice or more, the first is the measure",
    )
    for parser in (profile, compare):
        parser.add_argument("--json", metavar="FILE", help="the result for programs")
        parser.add_argument("--plot", metavar="FILE", help="the roofline, .png, .svg or .pdf")
    profile.add_argument("--trace", metavar="FILE", help="for https://ui.perfetto.dev")
    profile.add_argument("--html", metavar="FILE", help="all of it as one page")


def _add_model(parser: argparse.ArgumentParser, steps: int) -> None:
    names = ", ".join(settings.PRESETS)
    parser.add_argument("--preset", help=f"{names} (default: char-small)")
    flags.add_settings(parser, MODEL)
    parser.add_argument("--steps", type=int, default=steps, metavar="N", help=f"({steps})")


def _workload(args: argparse.Namespace) -> Workload:
    """The model and the batch that the flags describe; what they ask for is checked."""
    from minillm.bench import workload

    if args.steps < 1:
        raise UserError(f"--steps must be at least 1, got {args.steps}")
    flags.check_writable(args, "json", "plot")
    flags.set_up_kernels(args)
    given = {name: value for name, value in vars(args).items() if name in MODEL}
    w = workload.of_settings(settings.resolve(args.preset, flags=given))
    return dataclasses.replace(w, preset=f"{w.preset}, changed") if given else w


def _profile(args: argparse.Namespace) -> int:
    from minillm.observe import chart, page, report, session, trace

    flags.check_writable(args, "trace", "html")
    w = _workload(args)
    result, profiles = session.run(w, _roofs(), args.steps, args.generate)
    print(report.as_text(result))
    _write(args.json, lambda: _json(result))
    _write(args.trace, lambda: json.dumps(trace.as_trace(profiles)))
    _write(args.html, lambda: page.as_html(result, profiles))
    if args.plot:
        title = f"{result['model']['preset']}, a training step"
        chart.save(args.plot, result["roofs"], {"": chart.points(result["train"])}, title)
    return 0


def _compare(args: argparse.Namespace) -> int:
    from minillm.observe import chart, compare

    if len(args.kernels) < 2:
        raise UserError("compare needs --kernels twice or more, such as auto and matmul=naive")
    w = _workload(args)
    compare.check(args.kernels)
    result = compare.run(w, _roofs(), args.kernels, args.steps)
    print(compare.as_text(result))
    _write(args.json, lambda: _json(result))
    if args.plot:
        series = {
            choice["kernels"]: chart.points(choice["profile"], i)
            for i, choice in enumerate(result["choices"])
        }
        chart.save(args.plot, result["roofs"], series, f"{result['model']['preset']}, compared")
    return 0 if all(choice["agrees"] for choice in result["choices"]) else 1


def _roofs() -> Roofs:
    """What this machine can reach, measured at the first time."""
    from tqdm import tqdm

    from minillm.observe import roofs

    progress = partial(tqdm, desc="measuring the machine for 7 s", unit=" sweeps", leave=False)
    return roofs.load(None, progress)


def _json(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write(path: str | None, text: Callable[[], str]) -> None:
    if path:
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(text())
