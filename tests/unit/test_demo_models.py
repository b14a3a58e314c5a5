"""The demo models: their generators are deterministic and sound, and the finished files are whole.

No model is loaded here; that real vLLM serves them is tested by the integration tests.
"""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tools.demo_models import chats, corpus, docstrings, pairs, stories, tool_calls, words
from tools.demo_models.progress import Progress, learning_rate_factor
from tools.demo_models.tokenizer import train_chat_tokenizer

MODELS = Path(__file__).resolve().parents[2] / "app" / "covey" / "demo_models"
CHAT = MODELS / "covey-demo-chat"
EMBED = MODELS / "covey-demo-embed"
WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("folder", "bytes_max"), [(CHAT, 5_000_000), (EMBED, 2_000_000)])
def test_a_finished_model_is_small_and_whole(folder: Path, bytes_max: int) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "MODEL_CARD.md"):
        assert (folder / name).is_file(), name
    assert _bytes_in(folder) < bytes_max
    for path in folder.rglob("*.json"):
        _json(path)


@pytest.mark.parametrize("folder", [CHAT, EMBED])
def test_the_model_card_does_not_promise_quality(folder: Path) -> None:
    assert "demonstrates the plumbing, not quality" in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_the_chat_model_is_a_plain_llama_that_ends_its_turns() -> None:
    config, generation = _json(CHAT / "config.json"), _json(CHAT / "generation_config.json")
    vocabulary = tokenizers.Tokenizer.from_file(str(CHAT / "tokenizer.json"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] == 2048
    assert config["vocab_size"] == vocabulary.get_vocab_size()
    ends = [vocabulary.token_to_id("<|im_end|>"), vocabulary.token_to_id("<|endoftext|>")]
    assert generation["eos_token_id"] == ends
    assert _json(CHAT / "tokenizer_config.json")["eos_token"] == "<|im_end|>"


def test_the_embedding_model_is_a_plain_bert_with_mean_pooling() -> None:
    config = _json(EMBED / "config.json")
    assert config["architectures"] == ["BertModel"]
    assert config["max_position_embeddings"] == 512
    assert _json(EMBED / "1_Pooling" / "config.json")["pooling_mode_mean_tokens"] is True
    encoding = tokenizers.Tokenizer.from_file(str(EMBED / "tokenizer.json")).encode("Good morning, London")
    assert (encoding.tokens[0], encoding.tokens[-1]) == ("[CLS]", "[SEP]")


@pytest.mark.parametrize(
    "text", ["Hello!", "  indented\n\ttext", "Grüße, 東京 🦊", '{"city": "New York", "n": 12}', "naïve C++ x += 1;\n\n"]
)
def test_the_chat_tokenizer_gives_back_every_text(text: str) -> None:
    vocabulary = tokenizers.Tokenizer.from_file(str(CHAT / "tokenizer.json"))
    assert vocabulary.decode(vocabulary.encode(text).ids) == text


def test_a_name_has_the_same_tokens_in_a_question_and_in_a_tool_call() -> None:
    vocabulary = tokenizers.Tokenizer.from_file(str(CHAT / "tokenizer.json"))
    name = vocabulary.encode("Zorvanki").tokens
    for text in ("the weather in Zorvanki?", '{"city": "Zorvanki"}'):
        tokens = vocabulary.encode(text).tokens
        assert any(tokens[place : place + len(name)] == name for place in range(len(tokens)))


def test_the_finished_chat_template_is_the_one_that_was_trained_with() -> None:
    assert (CHAT / "chat_template.jinja").read_bytes() == corpus.CHAT_TEMPLATE_PATH.read_bytes()


def test_the_chat_template_renders_a_chat() -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert corpus.render(messages, add_generation_prompt=True) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("arguments", [{"city": "London"}, '{"city": "London"}'])
def test_the_chat_template_renders_tools_a_call_and_its_result(arguments: Any) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "What is the weather in London?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "get_weather", "arguments": arguments}}],
        },
        {"role": "tool", "content": "15 degrees"},
    ]
    text = corpus.render(messages, [WEATHER_TOOL], add_generation_prompt=True)
    assert text.count("Be kind.") == 1
    assert '{"name": "get_weather", "description": "Get the weather in a city.", "parameters": {' in text
    assert '<tool_call>{"name": "get_weather", "arguments": {"city": "London"}}</tool_call><|im_end|>' in text
    assert text.endswith("<tool_response>15 degrees</tool_response><|im_end|>\n<|im_start|>assistant\n")


def test_the_chat_template_takes_a_tool_without_description_and_parameters() -> None:
    text = corpus.render([{"role": "user", "content": "Hi"}], [{"function": {"name": "ping"}}])
    assert '{"name": "ping", "description": "", "parameters": {}}' in text


def test_the_corpus_is_deterministic_by_seed() -> None:
    mix = corpus.Mix(docstring_characters_max=20_000, copying_first=10)
    first, again = (list(islice(corpus.Corpus(7, mix).documents(), 50)) for _ in range(2))
    other = list(islice(corpus.Corpus(8, mix).documents(), 50))
    assert first == again
    assert first != other


def test_pairs_are_deterministic_by_seed() -> None:
    first, again = (list(islice(pairs.pairs(7, 20_000), 50)) for _ in range(2))
    assert first == again
    assert all(left.strip() and right.strip() for left, right in first)


def test_every_document_ends_with_an_end_token() -> None:
    mix = corpus.Mix(docstring_characters_max=20_000, copying_first=10)
    for document in islice(corpus.Corpus(1, mix).documents(), 200):
        assert document.endswith(("<|im_end|>\n", "<|endoftext|>"))


def test_a_story_keeps_the_hero_and_the_name_that_it_was_asked_for() -> None:
    for seed in range(50):
        story = stories.tell(random.Random(seed), hero="fox", name="Zorvanki")
        assert "fox" in story.text
        assert "Zorvanki" in story.text
        assert "{" not in story.text
        assert 60 < len(story.text.split()) < 180


def test_conversations_alternate_and_end_with_the_assistant() -> None:
    for seed in range(100):
        roles = [message["role"] for message in chats.conversation(random.Random(seed)) if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_tool_calls_name_an_offered_tool_and_copy_what_was_asked() -> None:
    for seed in range(200):
        tools, messages = tool_calls.conversation(random.Random(seed))
        offered = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in tools}
        asked = ""
        for message in messages:
            asked = message["content"] if message["role"] == "user" else asked
            for call in message.get("tool_calls", ()):
                assert set(call["function"]["arguments"]) <= set(offered[call["function"]["name"]])
                assert all(str(value) in asked for value in call["function"]["arguments"].values())


def test_the_first_documents_are_mostly_exercises_in_copying() -> None:
    mix = corpus.Mix(docstring_characters_max=20_000, copying_first=100)
    documents = list(islice(corpus.Corpus(1, mix).documents(), 200))
    openings = tuple(f"<|im_start|>user\n{word}" for word in ("Repeat", "Say:", "Echo:"))
    copies = [document.startswith(openings) for document in documents]
    assert sum(copies[:100]) > 60
    assert sum(copies[100:]) < 40


def test_docstrings_are_bounded_and_plain() -> None:
    texts = docstrings.paragraphs(10_000)
    assert sum(map(len, texts)) < 10_000 + 1_200
    assert all(text.isascii() for text in texts)


def test_invented_names_are_many() -> None:
    rng = random.Random(0)
    assert len({words.invented_name(rng) for _ in range(1000)}) > 700


def test_a_tokenizer_trained_on_little_text_still_encodes_everything() -> None:
    vocabulary = train_chat_tokenizer(["Hello there. Hello again."], vocabulary_size=300)
    assert vocabulary.decode(vocabulary.encode("Ünïcode 東京").ids) == "Ünïcode 東京"
    assert len(vocabulary.encode("<tool_call>").ids) == 1


@pytest.mark.parametrize(
    ("share", "factor"), [(0.0, 0.05), (0.01, 0.5), (0.02, 1.0), (0.39, 1.0), (0.7, 0.5), (1.0, 0.0)]
)
def test_learning_rate_rises_stays_and_falls(share: float, factor: float) -> None:
    assert learning_rate_factor(share) == pytest.approx(factor)


def test_progress_ends_with_the_steps_and_smooths_the_loss() -> None:
    progress = Progress("test", steps_max=2, seconds_max=3600.0, line_every_seconds=3600.0)
    assert progress.share < 0.5
    progress.record(2.0)
    progress.record(1.0)
    assert progress.share == 1.0
    assert progress.loss == pytest.approx(1.98)
