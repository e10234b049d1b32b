"""What must hold of request bodies: the right ones are understood, each wrong one gets a sentence about its mistake."""

import json

import pytest
from edgeinfer.memory.serving.api import ApiError, parse
from hypothesis import given
from hypothesis import strategies as st

MESSAGES = [{"role": "user", "content": "hi"}]


def body(**changes):
    return json.dumps({"model": "target", "prompt": "hi"} | changes).encode()


def chat_body(**changes):
    return json.dumps({"model": "target", "messages": MESSAGES} | changes).encode()


def refused(data, chat=False):
    with pytest.raises(ApiError) as caught:
        parse(data, chat, "target")
    return caught.value


def test_defaults_are_those_of_openai():
    call = parse(body(), False, "target")
    assert (call.prompts, call.max_tokens, call.temperature, call.top_p, call.n) == (("hi",), None, 1.0, 1.0, 1)
    assert not call.stream


def test_prompts_may_be_text_or_tokens_or_a_list_of_such():
    assert parse(body(prompt=[3, 4]), False, "target").prompts == ((3, 4),)
    assert parse(body(prompt=["a"]), False, "target").prompts == ("a",)
    assert parse(body(prompt=[[5]]), False, "target").prompts == ((5,),)
    assert parse(body(prompt=["a", [5, 6], ""]), False, "target").prompts == ("a", (5, 6), "")
    assert parse(body(prompt=[]), False, "target").prompts == ((),)
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, *MESSAGES]
    assert parse(chat_body(messages=parts), True, "target").prompts == ("ab\nhi",)


def test_parameters_that_change_nothing_are_accepted():
    neutral = {"echo": False, "best_of": 1, "logit_bias": {}, "presence_penalty": 0.0, "user": "me", "logprobs": None}
    assert parse(body(**neutral), False, "target").prompts == ("hi",)
    assert parse(chat_body(max_completion_tokens=7), True, "target").max_tokens == 7


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the body is not JSON (expecting value at character 1); send one JSON object"),
        (b'{"model": "target", ', "the body is not JSON (expecting property name"),
        (b"\xff\xfe\x00", "the body is not JSON (it is not UTF-8)"),
        (b"[" * 100_000, "the body is not JSON (it is nested too deep)"),
        (b"[1]", "the body must be one JSON object; came a list"),
        (b'{"prompt": "hi"}', "model is missing; this server has one, 'target'"),
        (
            b'{"model": "target", "seed": ' + b"9" * 5000 + b"}",
            "the body is not JSON (a number in it has too many digits)",
        ),
        (
            b'{"model": "target"}',
            "prompt is missing; expected a string, a list of token ids, or a list of such prompts",
        ),
        (body(prompt=3), "prompt must be a string, a list of token ids, or a list of such prompts; came 3"),
        (body(prompt=[1, -1]), "prompt must be a string, a list of token ids, or a list of such prompts; came a list"),
        (body(prompt=["a", 5]), "prompt must be a string, a list of token ids, or a list of such prompts; came a list"),
        (body(prompt=["a", ["b"]]), "prompt must be a string, a list of token ids, or a list of such prompts; came a"),
        (body(prompt=["a"] * 5, n=8), "40 answers are asked for at once (prompts times n); at most 32"),
        (b'{"model": "target", "prompt": "\\ud800"}', "prompt holds half a surrogate pair"),
        (body(max_tokens=0), "max_tokens must be a whole number of 1 or more; came 0"),
        (body(max_tokens=1.5), "max_tokens must be a whole number of 1 or more; came 1.5"),
        (body(max_tokens=True), "max_tokens must be a whole number of 1 or more; came true"),
        (body(temperature=-1), "temperature must be a number from 0 to 2; came -1"),
        (body(temperature=float("nan")), "temperature must be a number from 0 to 2; came NaN"),
        (body(top_p="x"), "top_p must be a number from 0 to 1; came a string"),
        (body(n=99), "n must be a whole number from 1 to 8; came 99"),
        (body(stop=["a"] * 5), "stop must be a string or a list of at most 4 strings"),
        (body(stop=""), "stop must be a string or a list of at most 4 strings, none of them empty; came a string"),
        (body(stream="yes"), "stream must be true or false; came a string"),
        (body(stream_options=[1]), "stream_options must be an object"),
        (body(logprobs=3), "logprobs is not supported by this server; leave it out"),
        (body(temprature=1), "there is no parameter 'temprature'; leave it out"),
    ],
)
def test_each_mistake_gets_its_sentence(data, sentence):
    error = refused(data)
    assert error.status == 400
    assert error.message.startswith(sentence)
    assert "\n" not in error.message
    assert error.body()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_is_a_404_with_openais_code():
    error = refused(body(model="gpt-4"))
    assert (error.status, error.code) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        (None, "messages is missing"),
        ([], "messages must be a list of objects"),
        (["hi"], "messages[0] must be an object with 'role' and 'content'; came a string"),
        ([*MESSAGES, {"role": "user", "content": None}], "messages[1].content must be a string"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content must be a string or a list of"),
    ],
)
def test_wrong_messages_are_named(messages, sentence):
    assert refused(chat_body(messages=messages), chat=True).message.startswith(sentence)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["prompt", "messages", "max_tokens", "temperature", "top_p", "seed", "stop", "n", "stream"])


@given(st.dictionaries(KEYS, JSON, max_size=4), st.booleans())
def test_no_json_makes_anything_but_a_call_or_a_refusal(changes, chat):
    data = json.dumps({"model": "target"} | changes).encode()
    try:
        assert parse(data, chat, "target").model == "target"
    except ApiError as error:
        assert error.status in (400, 404)
