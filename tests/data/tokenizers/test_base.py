"""TextStream: tokens one at a time give the text that all of them together give."""

from hypothesis import given
from hypothesis import strategies as st

from minillm.data import BPETokenizer, CharTokenizer

BYTES = BPETokenizer([])


@given(data=st.binary(max_size=50) | st.text(max_size=20).map(str.encode))
def test_stream_joins_to_the_decoded_whole(data):
    stream = BYTES.stream()
    pieces = [stream(token) for token in BYTES.encode_bytes(data)]
    assert "".join(pieces) + stream.flush() == BYTES.decode(list(data))


def test_stream_holds_a_character_back_until_it_is_whole():
    stream = BYTES.stream()
    assert [stream(byte) for byte in "a中🙂".encode()] == ["a", "", "", "中", "", "", "", "🙂"]
    assert stream.flush() == ""


def test_stream_flush_marks_an_unfinished_character():
    stream = BYTES.stream()
    assert stream("中".encode()[0]) == ""
    assert stream.flush() == "\ufffd"


def test_stream_gives_characters_at_once():
    tokenizer = CharTokenizer.train("a中🙂", unk=True)
    stream = tokenizer.stream()
    assert [stream(token) for token in range(4)] == ["a", "中", "🙂", "<unk>"]
