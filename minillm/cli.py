"""The command line.  Exit codes: 0 done, 1 unhealthy or diverged, 2 a user's mistake, 130 Ctrl-C.

A mistake is one line on stderr. A command imports what it needs when it runs: help stays quick.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from minillm import __version__, cli_profile, flags
from minillm import config as settings
from minillm.errors import KernelError, UserError


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.  argv: None: that of the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # By the line also into a pipe; "?" for a character that the terminal cannot show.
            stream.reconfigure(line_buffering=True, errors="replace")
    try:
        args = _parser().parse_args(argv)
        return args.command(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a program ends that SIGPIPE kills
    except (UserError, KernelError, OSError) as error:
        return _fail(error, 2)
    except MemoryError as error:
        return _fail(f"out of memory, try a smaller --batch-size: {error}", 2)


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors on one line like all the others."""

    def error(self, message: str) -> NoReturn:
        self.exit(_fail(f"{message} (see {self.prog} --help)", 2))


def _fail(error: object, code: int) -> int:
    print("minillm: error:", " ".join(str(error).split()), file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="minillm", description="A small language-model framework to learn from.")
    parser.add_argument("--version", action="version", version=f"minillm {__version__}")
    parser.set_defaults(command=lambda args: parser.print_help() or 0)
    commands = parser.add_subparsers(title="commands", metavar="")
    _add_train(commands)
    _add_sample(commands)
    _add_eval(commands)
    _add_bench(commands)
    _add_roofs(commands)
    cli_profile.add(commands)
    doctor = commands.add_parser("doctor", help="what runs here and why, what is amiss, the remedy")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(command=_doctor)
    corpora = commands.add_parser("corpora", help="the texts that can be trained on by name")
    corpora.set_defaults(command=_corpora)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a GPT on a text", allow_abbrev=False)
    train.set_defaults(command=_train)
    train.add_argument("--preset", help=", ".join(settings.PRESETS) + " (default: char-small)")
    train.add_argument("--config", metavar="FILE.toml", help="settings, over those of the preset")
    train.add_argument("--out", metavar="DIR", help="run directory (default: a new one in runs/)")
    train.add_argument("--resume", metavar="DIR", help="go on with the run in this directory")
    flags.add_kernels(train)
    flags.add_settings(train)


def _add_sample(commands: Any) -> None:
    sample = commands.add_parser("sample", help="write text with a trained model")
    sample.set_defaults(command=_sample)
    sample.add_argument("run", metavar="RUN", help="run directory")
    sample.add_argument("--prompt", metavar="TEXT", help="what to continue (default: a new line)")
    sample.add_argument("--tokens", type=int, default=500, metavar="N", help="how many (500)")
    sample.add_argument(
        "--temperature", type=float, default=1.0, metavar="X", help="0: the likeliest token (1.0)"
    )
    sample.add_argument("--top-k", type=int, metavar="K", help="only the K likeliest tokens")
    sample.add_argument(
        "--top-p", type=float, metavar="P", help="only the likeliest tokens that hold probability P"
    )
    sample.add_argument("--seed", type=int, metavar="N", help="the same text each time")
    _add_unknown_flag(sample)
    flags.add_kernels(sample)


def _add_eval(commands: Any) -> None:
    evaluation = commands.add_parser("eval", help="the loss of a trained model on a text")
    evaluation.set_defaults(command=_eval)
    evaluation.add_argument("run", metavar="RUN", help="run directory")
    evaluation.add_argument(
        "corpus",
        nargs="?",
        metavar="CORPUS",
        help="all of it (default: the run's validation split)",
    )
    _add_unknown_flag(evaluation)
    flags.add_kernels(evaluation)


def _add_bench(commands: Any) -> None:
    from minillm.bench import BENCHMARKS

    bench = commands.add_parser("bench", help="how fast, beside NumPy and PyTorch")
    bench.set_defaults(command=_bench)
    bench.add_argument("benchmark", choices=BENCHMARKS, metavar=f"{{{','.join(BENCHMARKS)}}}")
    bench.add_argument("--against", choices=("torch",), help="compare with PyTorch as well")
    bench.add_argument("--json", metavar="FILE", help="keep the result (see minillm.bench)")
    bench.add_argument("--turns", type=int, default=7, metavar="N", help="of each contestant (7)")
    bench.add_argument("--preset", choices=settings.PRESETS, help="of ops, train and decode")
    bench.add_argument("--threads", type=int, metavar="N", help="of all contestants (all cores)")
    bench.add_argument(
        "--kernels",
        metavar="SPEC",
        action="append",
        default=[],
        help="auto, numpy, or a list such as matmul=naive; again for one more contestant",
    )


def _add_roofs(commands: Any) -> None:
    roofs = commands.add_parser("roofs", help="the most that this machine can compute and move")
    roofs.set_defaults(command=_roofs)
    roofs.add_argument("--threads", type=int, metavar="N", help="on 1 to N threads (all cores)")
    roofs.add_argument("--again", action="store_true", help="measure anew, not from the cache")
    roofs.add_argument(
        "--json", action="store_true", help="for programs (see minillm.observe.roofs)"
    )


def _add_unknown_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--unknown",
        choices=("error", "replace"),
        default="error",
        help="what to do with a character that the model does not know (error)",
    )


def _train(args: argparse.Namespace) -> int:
    from minillm import run as runs
    from minillm.observe import plot
    from minillm.train import DivergedError, train

    flags.set_up_kernels(args)
    given = {name: value for name, value in vars(args).items() if name in settings.TYPES}
    preset = given.pop("preset")
    if args.resume is None:
        run = runs.start(settings.resolve(preset, args.config, given), args.out)
    else:
        for name in ("preset", "config", "out"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name} does not go with --resume: the run has its own")
        run = runs.resume(args.resume, given)
    size = sum(parameter.data.size for parameter in run.model.parameters())
    print(f"model: {size:,} parameters, {run.tokenizer.vocab_size} tokens in the vocabulary")
    print(f"run: {run.directory}, iteration {run.iteration} of {run.config.max_iters}")
    try:
        train(run, _known_peak())
    except DivergedError as error:
        return _fail(error, 1)
    finally:
        plot.save_loss_curve(run.directory)
    return 0


def _known_peak() -> float | None:
    """FLOP/s that the kernels reach here, if that was measured before: it takes seconds."""
    from minillm import kernels
    from minillm.observe import roofs

    threads = kernels.info()["threads"]
    if not roofs.cache_file(threads).exists():
        return None
    return 1e9 * roofs.load(threads).gflops[threads]


def _sample(args: argparse.Namespace) -> int:
    from minillm import generate

    flags.set_up_kernels(args)
    model, tokenizer = generate.load(args.run)
    if args.prompt:
        prompt = tokenizer.encode(args.prompt, args.unknown)
    else:
        prompt = generate.default_prompt(tokenizer)
    text = generate.stream(
        model, tokenizer, prompt, args.tokens, args.temperature, args.top_k, args.top_p, args.seed
    )
    print(args.prompt or "", end="")
    for piece in text:
        print(piece, end="", flush=True)
    print()
    return 0


def _eval(args: argparse.Namespace) -> int:
    from minillm import checkpoint, data, evaluate, generate

    flags.set_up_kernels(args)
    config = checkpoint.load_config(args.run)
    model, tokenizer = generate.load(args.run)
    try:
        own = data.load(config.corpus)
    except UserError as error:
        raise UserError(f"the text that {args.run} learned from is gone: {error}") from None
    train_ids, ids = data.train_val_split(tokenizer.encode(own.text, args.unknown))
    text, name = tokenizer.decode(ids), f"the validation split of {own.name}"
    if args.corpus is not None:
        other = data.load(args.corpus)
        ids, text, name = tokenizer.encode(other.text, args.unknown), other.text, other.name
    windows = data.sequential_windows(ids, config.block_size, config.batch_size)
    losses = {"this model": evaluate.mean_loss(model, windows)}
    losses |= evaluate.yardsticks(train_ids, [ids], tokenizer.vocab_size)
    print(f"{args.run} on {name}: {len(ids) - 1:,} tokens")
    print(evaluate.table(losses, len(ids) / len(text)))
    return 0


def _bench(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from minillm import bench
    from minillm.bench import table

    flags.check_writable(args, "json")
    options = bench.Options(
        args.benchmark, args.against, args.turns, args.threads, args.preset, tuple(args.kernels)
    )
    result = bench.run(options, lambda cases: tqdm(cases, unit="case", leave=False))
    print(table.as_text(result))
    if args.json:
        with open(args.json, "w", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 0


def _roofs(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from minillm.observe import roofs

    def progress(sweeps: Iterable) -> Iterable:
        return tqdm(sweeps, desc="measuring for 7 s", unit=" sweeps", leave=False)

    found = roofs.load(args.threads, progress, args.again)
    as_json = dataclasses.asdict(found)
    print(json.dumps(as_json, indent=1) if args.json else roofs.as_text(found))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from minillm.observe import doctor

    report = doctor.examine()
    print(json.dumps(doctor.as_json(report), indent=1) if args.json else doctor.as_text(report))
    return 1 if report.findings else 0


def _corpora(args: argparse.Namespace) -> int:
    from minillm import data

    known = data.catalogue()
    width = max(len(corpus.name) for corpus in known)
    for corpus in known:
        print(f"{corpus.name:{width}}  {corpus.description}")
        print(f"{'':{width}}  {'ready' if corpus.available else 'missing: ' + corpus.remedy}")
    return 0
