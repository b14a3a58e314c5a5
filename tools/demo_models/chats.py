"""Conversations without tools: turns drawn one after the other from the kinds listed at the end of this file.

Turns that remember something (a name, a story) read it from the `Memory` of their conversation.
"""

from __future__ import annotations

import random

from tools.demo_models import exercises, facts, small_talk, story_turns, words
from tools.demo_models.turns import Draw, Memory, Message, Turn


def conversation(rng: random.Random) -> list[Message]:
    """One conversation of one to six turns, some with a system message before them."""
    memory = Memory()
    messages = system_message(rng)
    for _ in range(rng.choices((1, 2, 3, 4, 6), weights=(55, 20, 12, 8, 5))[0]):
        question, answer = _turn(rng, memory)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def system_message(rng: random.Random) -> list[Message]:
    """A system message in three of ten conversations; the answers are the same with and without it."""
    if rng.random() > 0.3:
        return []
    texts = (
        "You are a helpful assistant.",
        "You are a helpful assistant.",
        "You are a helpful, friendly assistant.",
        "Answer briefly.",
        "You are an assistant for an office.",
        "Be kind and clear.",
        "You are a storyteller.",
        "You are a helpful assistant. Answer in English.",
        f"You are talking to {words.person(rng)}.",
    )
    return [{"role": "system", "content": rng.choice(texts)}]


def _turn(rng: random.Random, memory: Memory) -> Turn:
    """Draw the kind of the next turn, preferring follow-ups where there is something to follow."""
    if memory.story and rng.random() < 0.5:
        return story_turns.follow_up(rng, memory)
    if memory.user_name and rng.random() < 0.4:
        return small_talk.recall_name(rng, memory)
    kind = rng.choices([kind for kind, _ in _KINDS], weights=[weight for _, weight in _KINDS])[0]
    question, answer = kind(rng, memory)
    return _roughened(rng, question), answer


def _roughened(rng: random.Random, question: str) -> str:
    """People type carelessly: without the final mark, in lower case, with a polite word."""
    draw = rng.random()
    if draw < 0.08:
        return question.rstrip("?.!")
    if draw < 0.16:
        return question[0].lower() + question[1:]
    if draw < 0.21:
        return f"Please {question[0].lower()}{question[1:]}" if question.endswith(".") else f"Hi! {question}"
    if draw < 0.28 and question.endswith((".", "?")):
        how = rng.choice(("in one sentence", "briefly", "in simple words", "in a few words", "for a child"))
        return f"{question[:-1]} {how}{question[-1]}"
    if draw < 0.31:
        return question.rstrip(".?!") + ", please."
    return question


_KINDS: tuple[tuple[Draw, int], ...] = (
    (story_turns.story, 22),
    (small_talk.fact(facts.ABOUT_ITSELF), 14),
    (small_talk.fact(facts.ABOUT_COVEY), 8),
    (small_talk.fact(facts.GENERAL), 9),
    (small_talk.greeting, 8),
    (small_talk.reply_to_small_talk, 6),
    (small_talk.meet, 6),
    (exercises.capital, 5),
    (exercises.add, 4),
    (exercises.count, 4),
    (exercises.enumerate_some, 4),
    (exercises.repeat, 7),
    (exercises.repeat_long, 7),
    (exercises.write_json, 6),
    (exercises.poem, 3),
    (exercises.weather_without_tool, 2),
    (small_talk.do_not_know, 8),
)
"""Each kind of turn with its weight."""
