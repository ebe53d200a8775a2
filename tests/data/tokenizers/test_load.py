"""tokenizer.json: what was saved comes back equal; anything else is one line naming the file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.data import BPETokenizer, CharTokenizer, load_tokenizer
from minillm.errors import UserError

CHAR = {"type": "char", "version": 1, "unk": False, "characters": "abc"}
BPE = {"type": "bpe", "version": 1, "merges": [[97, 98], [256, 99]]}


@given(text=st.text(min_size=1), unk=st.booleans())
def test_load_returns_the_char_tokenizer_that_was_saved(tmp_path_factory, text, unk):
    path = tmp_path_factory.mktemp("run") / "tokenizer.json"
    tokenizer = CharTokenizer.train(text, unk)
    tokenizer.save(path)
    loaded = load_tokenizer(path)
    assert isinstance(loaded, CharTokenizer)
    assert loaded.tokens == tokenizer.tokens
    assert loaded.replacement_id == tokenizer.replacement_id
    assert loaded.to_json() == tokenizer.to_json()


def test_load_returns_the_bpe_tokenizer_that_was_saved(tmp_path):
    path = tmp_path / "tokenizer.json"
    text = "the cat and the hat, the café 中文中文 " * 3
    tokenizer = BPETokenizer.train(text, 300)
    tokenizer.save(path)
    loaded = load_tokenizer(str(path))
    assert isinstance(loaded, BPETokenizer)
    assert loaded.tokens == tokenizer.tokens
    assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert loaded.to_json() == tokenizer.to_json()


@pytest.mark.parametrize("fields", [CHAR, BPE])
def test_load_reads_the_format_of_version_1(tmp_path, fields):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(fields), "utf-8")
    tokenizer = load_tokenizer(path)
    assert tokenizer.decode(tokenizer.encode("abc")) == "abc"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"type": []}',
        *(
            json.dumps(fields).encode()
            for fields in [
                CHAR | {"type": "word"},
                CHAR | {"version": 2},
                CHAR | {"characters": ""},
                CHAR | {"characters": "ba"},
                CHAR | {"characters": "aa"},
                CHAR | {"characters": ["a"]},
                CHAR | {"characters": "a\ud800"},
                CHAR | {"unk": 1},
                {"type": "char", "version": 1},
                BPE | {"merges": {}},
                BPE | {"merges": [[97]]},
                BPE | {"merges": [97, 98]},
                BPE | {"merges": [[97, 256]]},
                BPE | {"merges": [[-1, 97]]},
                BPE | {"merges": [[97, 98.0]]},
                BPE | {"merges": [[True, 98]]},
                BPE | {"merges": [[97, 98], [97, 98]]},
                {"type": "bpe", "version": 1},
            ]
        ),
    ],
)
def test_load_rejects_what_is_no_tokenizer(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_tokenizer(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert repr(str(path)) in message


def test_load_names_a_file_that_is_missing(tmp_path):
    with pytest.raises(UserError, match="No such file") as caught:
        load_tokenizer(tmp_path / "none.json")
    assert repr(str(tmp_path / "none.json")) in str(caught.value)
