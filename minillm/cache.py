"""The user's cache directory: files that can be had again, by download or by measurement."""

import contextlib
import os
import sys
from pathlib import Path

from minillm.errors import UserError


def directory() -> Path:
    """minillm's own, by the custom of the platform; it need not exist yet."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        root = "~/Library/Caches"
    else:
        root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(root), "minillm")


def write(path: Path, data: bytes) -> None:
    """Write beside the target, then rename: a reader sees the old file, the new one or none.

    Raises: UserError where it cannot be written.
    """
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(
            f"cannot write the cache {str(path)!r} ({error.strerror}): set XDG_CACHE_HOME to a "
            "directory that can be written"
        ) from None
