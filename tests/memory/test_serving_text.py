"""What must hold of streamed text: the pieces make the whole, characters are whole, stop strings never show."""

import pytest
from edgeinfer.memory.serving.text import TextStream
from edgeinfer.models import load_tokenizer
from hypothesis import given
from hypothesis import strategies as st


class Bytes:
    """A tokenizer whose tokens are bytes: every character beyond ASCII is cut into several tokens."""

    def decode(self, ids):
        return bytes(ids).decode("utf-8", errors="replace")


def pieces(text, stops=(), tokenizer=None, ids=None):
    stream = TextStream(tokenizer or Bytes(), stops)
    out = []
    for token in text.encode() if ids is None else ids:
        out.append(stream.push(token))
    return [*out, stream.close()], stream


@given(st.text(max_size=30))
def test_pieces_make_the_whole_and_never_cut_a_character(text):
    out, stream = pieces(text)
    assert "".join(out) == text
    assert not stream.stopped
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in out)


@given(st.text("abé", max_size=20), st.lists(st.text("abé", min_size=1, max_size=4), min_size=1, max_size=3))
def test_text_ends_before_the_first_stop_string_that_is_complete(text, stops):
    out, stream = pieces(text, stops)
    shown = "".join(out)
    assert stream.stopped == any(stop in text for stop in stops)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    if not stream.stopped:
        assert shown == text


def test_what_may_become_a_stop_string_is_held_back_and_shown_when_it_does_not():
    stream = TextStream(Bytes(), ["END"])
    assert [stream.push(ord(c)) for c in "aENx"] == ["a", "", "", "ENx"]
    assert [stream.push(ord(c)) for c in "END!"] == ["", "", "", ""]
    assert stream.stopped
    assert stream.close() == ""


def test_an_unfinished_character_at_the_end_is_shown_as_such():
    stream = TextStream(Bytes())
    assert stream.push("é".encode()[0]) == ""
    assert stream.close() == "\ufffd"


@pytest.mark.parametrize("text", ["def f(x):\n    return x", "naïve café — 12 €", "日本語 и кириллица"])
def test_the_shipped_tokenizer_streams_what_it_decodes(text):
    tokenizer = load_tokenizer("target")
    ids = tokenizer.encode(text).ids
    assert "".join(pieces(text, (), tokenizer, ids)[0]) == tokenizer.decode(ids)
