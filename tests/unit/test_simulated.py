import base64
import json
import struct

import pytest

from covey_node.core import simulated_openai as openai
from covey_node.core.simulated import BatchModel, Fault, FaultKind, SimulatedSettings


def run_out(batch: BatchModel) -> list[tuple[float, object, int, bool]]:
    """Every production with its time, until nothing is due."""
    found = []
    while (due_s := batch.due_s()) is not None:
        found += [(due_s, p.key, p.tokens, p.finished) for p in batch.advance(due_s)]
        assert len(found) < 100_000
    return found


def batch(**values: object) -> BatchModel:
    fields = {"prefill_tokens_per_s": 1000.0, "decode_tokens_per_s": 10.0, "batch_slowdown": 0.0} | values
    return BatchModel(SimulatedSettings(**fields))  # type: ignore[arg-type]


def test_first_token_after_prefill_then_one_a_step() -> None:
    engine = batch()
    engine.submit("a", 500, 3, 0.0)
    found = run_out(engine)
    assert [(k, n, f) for _, k, n, f in found] == [("a", 1, False), ("a", 2, False), ("a", 3, True)]
    assert [t for t, *_ in found] == pytest.approx([0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ("prefill", "decoding", "expected_s"), [(0, 0, 0.0), (500, 0, 0.5), (0, 1, 0.1), (0, 11, 0.2), (500, 1, 0.6)]
)
def test_duration_of_a_step(prefill: int, decoding: int, expected_s: float) -> None:
    settings = SimulatedSettings(prefill_tokens_per_s=1000.0, decode_tokens_per_s=10.0, batch_slowdown=0.1)
    assert settings.step_s(prefill, decoding) == pytest.approx(expected_s)


def test_requests_are_decoded_together() -> None:
    engine = batch()
    for name in "abcd":
        engine.submit(name, 10, 10, 0.0)
    assert run_out(engine)[-1][0] < 10 * 0.1 * 1.3


def test_kv_cache_bounds_what_runs_and_order_is_kept() -> None:
    engine = batch(kv_cache_tokens=100)
    engine.submit("a", 50, 10, 0.0)
    engine.submit("b", 50, 10, 0.0)
    engine.submit("c", 1, 1, 0.0)
    assert (engine.running, engine.waiting, engine.kv_tokens_free) == (1, 2, 40)
    finished = [key for _, key, _, done in run_out(engine) if done]
    assert finished[0] == "a"
    assert set(finished) == {"a", "b", "c"}
    assert engine.kv_tokens_free == 100


def test_abort_frees_everything() -> None:
    engine = batch(kv_cache_tokens=100)
    engine.submit("a", 50, 40, 0.0)
    engine.submit("b", 50, 40, 0.0)
    engine.abort("a", 0.01)
    engine.abort("a", 0.01)
    engine.abort("b", 0.02)
    assert (engine.running, engine.waiting, engine.kv_tokens_free) == (0, 0, 100)
    assert run_out(engine) == []


def test_an_embedding_produces_no_token() -> None:
    engine = batch()
    engine.submit("a", 100, 0, 0.0)
    assert [(k, n, f) for _, k, n, f in run_out(engine)] == [("a", 0, True)]


def test_full_by_limit_and_by_fault() -> None:
    engine = batch(queue_limit=1)
    assert not engine.full
    engine.submit("a", 1, 1, 0.0)
    assert engine.full
    other = batch()
    other.inject(Fault(FaultKind.REFUSE))
    assert other.full
    other.heal()
    assert not other.full


@pytest.mark.parametrize("kind", [FaultKind.DIE, FaultKind.HANG])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_die_and_hang_strike_after_so_many_tokens(kind: FaultKind, after: int) -> None:
    engine = batch()
    engine.inject(Fault(kind, after))
    engine.submit("a", 10, 10, 0.0)
    assert len(run_out(engine)) == after
    assert (engine.died, engine.hung) == (kind is FaultKind.DIE, kind is FaultKind.HANG)


def test_stop_mid_stream_silences_that_stream() -> None:
    engine = batch()
    engine.inject(Fault(FaultKind.STOP_MID_STREAM, 3))
    engine.submit("a", 10, 10, 0.0)
    engine.submit("b", 10, 2, 0.0)
    counts = {key: tokens for _, key, tokens, _ in run_out(engine)}
    assert counts == {"a": 3, "b": 2}
    assert engine.running == 1


def call(**fields: object) -> openai.Call:
    body = {"model": "m", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 20} | fields
    return openai.parse("/v1/chat/completions", json.dumps(body).encode(), "m", False, 1000)


def test_text_follows_from_seed_and_prompt() -> None:
    assert openai.text(call(), 1, 20) == openai.text(call(), 1, 20)
    assert openai.text(call(), 1, 20) != openai.text(call(), 2, 20)
    other = call(messages=[{"role": "user", "content": "three"}])
    assert openai.text(call(), 1, 20) != openai.text(other, 1, 20)


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_continued_answer_goes_on_as_if_never_cut(cut: int) -> None:
    whole = openai.text(call(), 7, 20)
    partial = openai.text(call(), 7, cut)
    messages = [{"role": "user", "content": "one two"}, {"role": "assistant", "content": partial}]
    rest = call(messages=messages, continue_final_message=True, add_generation_prompt=False, max_tokens=20 - cut)
    assert partial + openai.text(rest, 7, rest.output_tokens) == whole


@pytest.mark.parametrize("prompt", ["Once upon a", "", "the wing", "a ", "bathe", "wind", "the the the the the"])
@pytest.mark.parametrize("cut", range(21))
def test_a_continued_text_goes_on_as_if_never_cut(prompt: str, cut: int) -> None:
    def text_call(prompt: str, max_tokens: int) -> openai.Call:
        body = {"model": "m", "prompt": prompt, "max_tokens": max_tokens}
        return openai.parse("/v1/completions", json.dumps(body).encode(), "m", False, 1000, seed=7)

    first = text_call(prompt, 20)
    whole = openai.text(first, 7, 20)
    partial = openai.text(first, 7, cut)
    rest = text_call(prompt + partial, 21 - cut)
    assert partial + openai.text(rest, 7, 20 - cut) == whole
    assert rest.prompt_tokens == first.prompt_tokens + cut


def test_a_partial_answer_is_only_continued_when_asked_for() -> None:
    messages = [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "the wing"}]
    assert call(messages=messages).skip == 0


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/nothing", b"{}", 404),
        ("/v1/embeddings", b'{"input": "a"}', 404),
        ("/v1/chat/completions", b"\xff", 400),
        ("/v1/chat/completions", b'"text"', 400),
        ("/v1/chat/completions", b'{"messages": []}', 400),
        ("/v1/chat/completions", b'{"messages": [1]}', 400),
        ("/v1/chat/completions", b'{"model": "x", "messages": [{}]}', 404),
        ("/v1/chat/completions", b'{"messages": [{}], "max_tokens": 0}', 400),
        ("/v1/chat/completions", b'{"messages": [{}], "max_tokens": "many"}', 400),
        ("/v1/completions", b'{"prompt": 7}', 400),
        ("/v1/completions", b'{"prompt": "' + b"a " * 2000 + b'"}', 400),
    ],
)
def test_mistakes(path: str, body: bytes, status: int) -> None:
    with pytest.raises(openai.CallError) as caught:
        openai.parse(path, body, "m", False, 1000)
    assert caught.value.status == status
    assert json.loads(caught.value.body)["error"]["code"] == status


def answered(path: str, **fields: object) -> dict[str, list[dict[str, object]]]:
    embeds = path == "/v1/embeddings"
    call = openai.parse(path, json.dumps({"model": "m", "max_tokens": 5} | fields).encode(), "m", embeds, 1000)
    tokens = sum(choice.output_tokens for choice in call.choices)
    found: dict[str, list[dict[str, object]]] = json.loads(openai.whole(call, "id", 0, tokens))
    return found


def test_choices_are_numbered_prompt_by_prompt_and_each_has_a_seed_of_its_own() -> None:
    whole = answered("/v1/completions", prompt=["one", "two"], n=3, seed=10)
    assert [choice["index"] for choice in whole["choices"]] == list(range(6))
    alone = [
        answered("/v1/completions", prompt=prompt, seed=10 + number)["choices"][0]["text"]
        for prompt in ("one", "two")
        for number in range(3)
    ]
    assert [choice["text"] for choice in whole["choices"]] == alone
    assert len(set(map(str, alone))) == 6
    assert whole["usage"] == {"prompt_tokens": 4, "completion_tokens": 30, "total_tokens": 34}


def test_without_a_seed_all_choices_are_what_one_would_be() -> None:
    one = answered("/v1/completions", prompt="one")["choices"][0]["text"]
    assert {choice["text"] for choice in answered("/v1/completions", prompt="one", n=4)["choices"]} == {one}


def test_a_seeded_answer_goes_on_as_if_never_cut() -> None:
    whole = str(answered("/v1/completions", prompt="one", seed=3, max_tokens=20)["choices"][0]["text"])
    words = whole.split(" ")
    for cut in range(1, len(words)):
        first = " ".join(words[:cut])
        rest = answered("/v1/completions", prompt="one" + first, seed=3, max_tokens=20 - cut)
        assert first + str(rest["choices"][0]["text"]) == whole


def test_an_embedding_is_a_function_of_its_text() -> None:
    together = answered("/v1/embeddings", input=["one", "two", "one"])["data"]
    assert together[0]["embedding"] == together[2]["embedding"] != together[1]["embedding"]
    assert answered("/v1/embeddings", input="two")["data"][0]["embedding"] == together[1]["embedding"]
    packed = answered("/v1/embeddings", input=["two"], encoding_format="base64")["data"][0]["embedding"]
    floats = struct.unpack("<16f", base64.b64decode(str(packed)))
    assert floats == pytest.approx(together[1]["embedding"])


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": ["a", 7]}),
        ("/v1/completions", {"prompt": []}),
        ("/v1/completions", {"prompt": "a", "n": 0}),
        ("/v1/completions", {"prompt": "a", "n": "two"}),
        ("/v1/completions", {"prompt": "a", "seed": 0.5}),
        ("/v1/embeddings", {"input": ["a"], "encoding_format": "hex"}),
    ],
)
def test_mistakes_of_lists_and_choices(path: str, fields: dict[str, object]) -> None:
    with pytest.raises(openai.CallError) as caught:
        answered(path, **fields)
    assert caught.value.status == 400


def first_tokens_s(engine: BatchModel) -> dict[object, float]:
    found: dict[object, float] = {}
    for at_s, key, _, _ in run_out(engine):
        found.setdefault(key, at_s)
    return found


def two_prompts(**values: object) -> dict[object, float]:
    """A long one begins, a short one comes after 0.1 s; nothing is decoded before both are computed."""
    engine = batch(decode_tokens_per_s=1e9, **values)
    engine.submit("long", 4000, 1, 0.0)
    engine.submit("short", 300, 1, 0.1)
    return first_tokens_s(engine)


def test_a_prompt_that_was_begun_before_goes_first_in_every_step() -> None:
    """Smaller steps alone do not help who comes later."""
    assert two_prompts() == pytest.approx({"long": 4.096, "short": 4.3}, abs=0.01)
    assert two_prompts(step_tokens=500) == pytest.approx({"long": 4.0, "short": 4.3}, abs=0.01)


def test_long_prompts_leave_room_in_the_step_where_they_are_bounded() -> None:
    """The first step is the long prompt's own: nobody else was there."""
    found = two_prompts(long_prompt_step_tokens=500)
    assert found == pytest.approx({"short": 2.048 + 0.8, "long": 4.3}, abs=0.01)


def test_the_bound_holds_beside_streams_too() -> None:
    engine = batch(decode_tokens_per_s=100.0, long_prompt_step_tokens=500)
    engine.submit("stream", 10, 1000, 0.0)
    engine.advance(0.1)
    engine.submit("long", 2000, 1, 0.1)
    engine.advance(0.2)
    engine.submit("short", 100, 1, 0.2)
    found = first_tokens_s(engine)
    assert (found["short"], found["long"]) == pytest.approx((0.1 + 0.51 + 0.61, 0.1 + 4 * 0.51 + 0.1), abs=0.02)


def test_streams_count_in_a_step() -> None:
    """Beside three streams a token of the fourth prompt is computed a step."""
    engine = batch(step_tokens=4)
    for name in "abcd":
        engine.submit(name, 4 if name == "d" else 1, 50, 0.0)
    keys = [key for _, key, _, _ in run_out(engine)]
    assert keys[: keys.index("d")].count("a") == 4
