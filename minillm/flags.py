"""Flags that several commands have in common: the settings of a model and the choice of kernels."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Container

from minillm import config as settings
from minillm.errors import UserError


def add_settings(parser: argparse.ArgumentParser, wanted: Container[str] | None = None) -> None:
    """A flag for each setting of a training run, or for those wanted; absent ones stay absent."""
    group = parser.add_argument_group("settings", "over those of the preset and the file")
    for field in dataclasses.fields(settings.TrainConfig):
        if wanted is not None and field.name not in wanted:
            continue
        kind, name = settings.TYPES[field.name], settings.flag(field.name)
        help, absent = field.metadata["help"], argparse.SUPPRESS
        if field.name == "corpus":
            parser.add_argument("corpus", nargs="?", metavar=name, default=absent, help=help)
        elif kind is bool:
            action = argparse.BooleanOptionalAction
            group.add_argument(name, action=action, default=absent, help=help)
        elif field.name != "preset":
            help, metavar = f"{help} ({field.default})", "N" if kind is int else "X"
            group.add_argument(name, type=kind, metavar=metavar, default=absent, help=help)


def add_kernels(parser: argparse.ArgumentParser) -> None:
    add_threads(parser)
    parser.add_argument(
        "--kernels",
        metavar="SPEC",
        help="auto, numpy, or a list such as matmul=naive,softmax=numpy",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the kernels")


def set_up_kernels(args: argparse.Namespace) -> None:
    """Do what --threads and --kernels say."""
    from minillm import kernels

    if args.threads is not None:
        if args.threads < 1:
            raise UserError(f"--threads must be at least 1, got {args.threads}")
        kernels.set_num_threads(args.threads)
    if isinstance(args.kernels, str):
        kernels.use(args.kernels)


def check_writable(args: argparse.Namespace, *names: str) -> None:
    """Raises: UserError if a file could not be written where these flags want it."""
    for name in names:
        path = getattr(args, name)
        if path and not os.path.isdir(os.path.dirname(path) or "."):
            raise UserError(f"--{name} {path}: there is no such directory; make it first")
