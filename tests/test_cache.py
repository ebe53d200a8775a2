"""The cache directory, and files that are there whole or not at all."""

import pytest

from minillm import cache
from minillm.errors import UserError


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "set/minillm"),
        ("linux", None, "home/.cache/minillm"),
        ("darwin", None, "home/Library/Caches/minillm"),
        ("win32", "LOCALAPPDATA", "set/minillm"),
    ],
)
def test_directory_follows_the_platform(tmp_path, monkeypatch, platform, variable, expected):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "set"))
    monkeypatch.setattr("sys.platform", platform)
    assert cache.directory() == tmp_path / expected


def test_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file.json"
    cache.write(path, b"old")
    cache.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_write_that_fails_names_the_file_and_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    cache.write(path, b"old")

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(UserError, match="No space left") as caught:
        cache.write(path, b"new")
    assert repr(str(path)) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
