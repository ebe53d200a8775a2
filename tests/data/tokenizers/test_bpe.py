"""BPETokenizer: any bytes come back; training is what its paper describes, and is repeatable."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.data import BPETokenizer
from minillm.data.tokenizers import bpe
from minillm.errors import UserError

TEXT = "the cat and the hat, they're in the café; the cats' hats\n\n  thé 中文中文 🙂🙂 " * 3
TOKENIZER = BPETokenizer.train(TEXT, 300)


def slow_merges(text: str, n_merges: int) -> list[tuple[int, int]]:
    """Sennrich et al. 2016, algorithm 1: count every pair of every word again for each merge."""
    words = [list(word.encode()) for word in re.findall(bpe.WORD, text)]
    merges = []
    for i in range(n_merges):
        counts = Counter(pair for ids in words for pair in pairwise(ids))
        pair = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if pair is None or counts[pair] < 2:
            break
        merges.append(pair)
        words = [bpe._replace(ids, pair, 256 + i) for ids in words]
    return merges


@given(data=st.binary(max_size=100))
def test_bpe_round_trips_any_bytes(data):
    assert TOKENIZER.decode_bytes(TOKENIZER.encode_bytes(data)) == data


@given(text=st.text(max_size=100) | st.text(alphabet=TEXT, max_size=100))
def test_bpe_round_trips_any_text(text):
    ids = TOKENIZER.encode(text)
    assert ids.dtype == np.int64
    assert TOKENIZER.decode(ids) == text
    np.testing.assert_array_equal(ids, TOKENIZER.encode_bytes(text.encode()))


@given(text=st.text(max_size=300) | st.text(alphabet="ab_1' \n", max_size=300))
def test_bpe_words_join_to_the_text(text):
    assert "".join(bpe.WORD.findall(text)) == text


def test_bpe_splits_words_as_gpt2():
    words = bpe.WORD.findall("I'll  go_to 10 cafés!!\n\n You're")
    expected = ["I", "'ll", " ", " go", "_", "to", " 10", " cafés", "!!", "\n\n", " You", "'re"]
    assert words == expected


@given(text=st.text(alphabet="aabbc \n'é", max_size=60), n_merges=st.integers(0, 20))
def test_bpe_train_matches_counting_anew_for_each_merge(text, n_merges):
    assert BPETokenizer.train(text, 256 + n_merges).merges == slow_merges(text, n_merges)


@given(text=st.text(alphabet="abc é", max_size=60))
def test_bpe_encodes_the_training_text_as_training_left_it(text):
    tokenizer = BPETokenizer.train(text, 300)
    words = [list(word.encode()) for word in bpe.WORD.findall(text)]
    for i, pair in enumerate(tokenizer.merges):
        words = [bpe._replace(ids, pair, 256 + i) for ids in words]
    assert tokenizer.encode(text).tolist() == [i for ids in words for i in ids]


def test_bpe_merges_the_most_frequent_pair_first():
    tokenizer = BPETokenizer.train("ab ab ab ab bc bc", 258)
    assert tokenizer.tokens[256:] == [b"ab", b" ab"]
    assert tokenizer.encode("ab ab").tolist() == [256, 257]


def test_bpe_stops_where_no_pair_occurs_twice():
    assert BPETokenizer.train("abcdef", 1000).vocab_size == 256
    assert BPETokenizer.train("", 1000).vocab_size == 256


def test_bpe_merges_do_not_cross_words():
    words = {word.encode() for word in bpe.WORD.findall(TEXT)}
    assert all(any(token in word for word in words) for token in TOKENIZER.tokens[256:])


@pytest.mark.parametrize("run", ["a", "中", "1", "_", "!", " ", "\n"])
def test_bpe_cuts_long_runs_so_that_text_without_spaces_stays_fast(run):
    text = run * 10_000
    assert max(map(len, bpe.WORD.findall(text))) == 64
    tokenizer = BPETokenizer.train(text, 300)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("vocab_size", [-1, 0, 255])
def test_bpe_train_needs_room_for_the_bytes(vocab_size):
    with pytest.raises(UserError, match="at least 256"):
        BPETokenizer.train(TEXT, vocab_size)


def test_bpe_names_a_lone_surrogate_or_replaces_it():
    with pytest.raises(UserError, match=r"U\+D800.*position 1"):
        TOKENIZER.encode("a\ud800")
    with pytest.raises(UserError, match=r"U\+D800"):
        BPETokenizer.train("a\ud800", 256)
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800", unknown="replace")) == "a?"


def test_bpe_decode_marks_bytes_that_are_no_utf8():
    assert TOKENIZER.decode([0xE4, 0x61]) == "\ufffda"


@pytest.mark.parametrize("bad", [-1, TOKENIZER.vocab_size])
def test_bpe_decode_rejects_an_id_outside_the_vocabulary(bad):
    with pytest.raises(ValueError, match=f"got {bad}"):
        TOKENIZER.decode([bad])


def test_bpe_train_shows_its_progress_only_when_asked(capsys):
    BPETokenizer.train(TEXT, 260)
    assert capsys.readouterr().err == ""
    BPETokenizer.train(TEXT, 260, progress=True)
    assert "4/4" in capsys.readouterr().err
