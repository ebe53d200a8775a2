"""CharTokenizer: any text comes back, and what it does not know is named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.data import CharTokenizer
from minillm.errors import UserError

texts = st.text(min_size=1, max_size=100)


@given(text=texts, unk=st.booleans())
def test_char_round_trips_any_text(text, unk):
    tokenizer = CharTokenizer.train(text, unk)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert ids.shape == (len(text),)
    assert tokenizer.decode(ids) == text


@given(text=texts)
def test_char_ids_number_the_sorted_characters(text):
    tokenizer = CharTokenizer.train(text)
    characters = sorted(set(text))
    assert tokenizer.vocab_size == len(characters)
    assert tokenizer.encode(text).tolist() == [characters.index(char) for char in text]


def test_char_takes_a_code_point_for_a_character():
    tokenizer = CharTokenizer.train("中🙂a")
    assert tokenizer.encode("a中🙂").tolist() == [0, 1, 2]


def test_char_encodes_an_empty_text():
    assert CharTokenizer.train("a").encode("").shape == (0,)
    assert CharTokenizer.train("a").decode([]) == ""


@pytest.mark.parametrize(
    ("text", "char", "code"),
    [
        ("a\nb", r"'\n'", "U+000A"),
        ("ac", "'c'", "U+0063"),
        ("a🙂", "'🙂'", "U+1F642"),
        ("\ud800", r"'\ud800'", "U+D800"),
    ],
)
def test_char_names_the_first_unknown_character(text, char, code):
    with pytest.raises(UserError) as caught:
        CharTokenizer.train("ab").encode(text + "\x00")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert char in message
    assert code in message
    assert "--unknown replace" in message


@pytest.mark.parametrize(
    ("vocabulary", "unk", "expected"),
    [
        ("ab?", False, "a?b"),
        ("ab? \ufffd", False, "a\ufffdb"),
        ("ab ", False, "a b"),
        ("ab", False, "aab"),
        ("ab?", True, "a<unk>b"),
    ],
)
def test_char_replaces_unknown_characters(vocabulary, unk, expected):
    tokenizer = CharTokenizer.train(vocabulary, unk)
    for unknown in "!", "中", "\ud800":
        assert tokenizer.decode(tokenizer.encode(f"a{unknown}b", unknown="replace")) == expected


def test_char_unk_is_the_last_id():
    tokenizer = CharTokenizer.train("ab", unk=True)
    assert tokenizer.vocab_size == 3
    assert tokenizer.encode("ba!", unknown="replace").tolist() == [1, 0, 2]


@pytest.mark.parametrize("text", ["", "a\ud800"])
def test_char_train_rejects_what_is_no_text(text):
    with pytest.raises(UserError):
        CharTokenizer.train(text)


@pytest.mark.parametrize("bad", [-1, 2])
def test_char_decode_rejects_an_id_outside_the_vocabulary(bad):
    with pytest.raises(ValueError, match=rf"\[0, 2\), got {bad}"):
        CharTokenizer.train("ab").decode([0, bad])
