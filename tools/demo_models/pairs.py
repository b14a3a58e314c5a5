"""Pairs of texts that belong together, for the embedding model: paraphrases, questions with answers, parts of one text.

Deterministic by seed, like the corpus.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from tools.demo_models import docstrings, facts, stories, words

Pair = tuple[str, str]

_SAME_QUESTION = (
    "What is the weather in {topic}?|How is the weather in {topic}?|Is it raining in {topic}?|Weather for {topic}",
    "Tell me a story about {topic}.|Write a tale about {topic}.|A story with {topic}|Once there was {topic}.",
    "How do I get to {topic}?|Where is {topic}?|The way to {topic}|Show me the road to {topic}.",
    "I like {topic}.|I am fond of {topic}.|{topic} is what I love.|My favourite is {topic}.",
    "How much does {topic} cost?|What is the price of {topic}?|I want to buy {topic}.|{topic} for sale",
)


def pairs(seed: int, prose_characters_max: int = 800_000) -> Iterator[Pair]:
    """Pairs without end."""
    rng = random.Random(seed)
    prose = [text for text in docstrings.paragraphs(prose_characters_max) if len(text) > 150]
    kinds: tuple[tuple[Callable[[], Pair], int], ...] = (
        (lambda: _parts_of_prose(rng, rng.choice(prose)), 5),
        (lambda: _reworded(rng, rng.choice(prose)), 3),
        (lambda: _fact(rng), 1),
        (lambda: _same_question(rng), 3),
        (lambda: _parts_of_story(rng), 2),
    )
    draws, weights = zip(*kinds, strict=True)
    while True:
        yield rng.choices(draws, weights=weights)[0]()


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in re.split(r"(?<=[.?!])\s+|\n\n+", text) if len(sentence) > 15]


def _parts_of_prose(rng: random.Random, text: str) -> Pair:
    """Two neighbouring sentences, or the first one and the rest."""
    sentences = _sentences(text)
    if len(sentences) < 2:
        return _reworded(rng, text)
    place = rng.randrange(len(sentences) - 1)
    return sentences[place], sentences[place + 1]


def _reworded(rng: random.Random, text: str) -> Pair:
    """A piece of text and the same piece with words missing and out of order: shared words should mean closeness."""
    chosen = text.split()
    start = rng.randrange(max(1, len(chosen) - 12))
    chosen = chosen[start : start + rng.randint(5, 25)]
    kept = [word for word in chosen if rng.random() < 0.6] or chosen
    rng.shuffle(kept)
    return " ".join(chosen), " ".join(kept)


def _fact(rng: random.Random) -> Pair:
    questions, answers = rng.choice(facts.ALL)
    return rng.choice(questions), rng.choice(questions + answers)


def _same_question(rng: random.Random) -> Pair:
    topic = rng.choice(
        (
            words.city(rng),
            words.article(rng.choice(words.ANIMALS + words.PEOPLE + words.THINGS_ALIVE)),
            rng.choice(words.TREASURES),
            rng.choice(words.FOODS),
        )
    )
    first, second = rng.sample(rng.choice(_SAME_QUESTION).split("|"), 2)
    return first.format(topic=topic), second.format(topic=topic)


def _parts_of_story(rng: random.Random) -> Pair:
    first, second = rng.sample(_sentences(stories.tell(rng).text), 2)
    return first, second
