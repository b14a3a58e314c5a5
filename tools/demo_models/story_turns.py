"""Turns that ask for a story, with or without a hero and a name, and turns that ask about the story just told."""

from __future__ import annotations

import random

from tools.demo_models import stories, words
from tools.demo_models.turns import Memory, Turn


def story(rng: random.Random, memory: Memory) -> Turn:
    hero = rng.choice(words.ANIMALS + words.PEOPLE + words.THINGS_ALIVE)
    helper = rng.choice(words.ANIMALS)
    name = words.person(rng)
    a_hero, a_helper = words.article(hero), words.article(helper)
    plain = (
        "Tell me a story.",
        "Tell me a short story.",
        "Write a short story.",
        "Can you tell me a story?",
        "Tell a bedtime story.",
        "Once more, a story!",
        "I want to hear a story.",
        "Do you know a story?",
        "Story time!",
        "Tell me something long.",
        "Write something.",
        "Write a few sentences.",
        "Tell me a long story.",
    )
    of_hero = (
        f"Tell me a story about {a_hero}.",
        f"Tell me a short story about {a_hero}.",
        f"Write a story about {a_hero}.",
        f"Write a short story about {a_hero}.",
        f"Can you tell me a story about {a_hero}?",
        f"A story about {a_hero}.",
        f"Tell me a tale about {a_hero}.",
        f"Write about {a_hero}.",
        f"Tell me about {a_hero} in a story.",
        f"Story about {a_hero}",
        f"Please write a little story about {a_hero}.",
    )
    named = (
        f"Tell me a story about {a_hero} named {name}.",
        f"Write a story about {a_hero} called {name}.",
        f"Write a short story about {name} the {hero}.",
        f"Tell me about {name}, {a_hero}.",
        f"Tell me a story with {a_hero} whose name is {name}.",
    )
    pair = (
        f"Tell me a story about {a_hero} and {a_helper}.",
        f"Write a story with {a_hero} and {a_helper}.",
        f"A short story about {a_hero} and {a_helper}, please.",
    )
    draw = rng.random()
    if draw < 0.2:
        question, memory.story = rng.choice(plain), stories.tell(rng)
    elif draw < 0.62:
        question, memory.story = rng.choice(of_hero), stories.tell(rng, hero)
    elif draw < 0.85:
        question, memory.story = rng.choice(named), stories.tell(rng, hero, name)
    else:
        question, memory.story = rng.choice(pair), stories.tell(rng, hero, None, helper)
    return question, memory.story.text


def follow_up(rng: random.Random, memory: Memory) -> Turn:
    story = memory.story
    assert story is not None
    memory.story = None
    if rng.random() < 0.25:
        memory.story = stories.tell(rng)
        return rng.choice(("Another one!", "Tell me another story.", "One more, please.", "Again!")), memory.story.text
    hero, name = story.hero, story.name
    return rng.choice(
        (
            (f"What was the name of the {hero}?", f"The {hero} was called {name}."),
            ("Who was the story about?", f"It was about {words.article(hero)} named {name}."),
            (f"Who helped {name}?", f"{words.article(story.helper).capitalize()} helped {name}."),
            (f"What did {name} find?", f"{name} found the {story.treasure}."),
            ("What was it about?", f"{name} looked for a {story.treasure}, and {words.article(story.helper)} helped."),
            ("I liked that story.", f"I am glad! I like {name} too."),
            ("Thank you, that was nice.", "You are welcome! Shall I tell another one?"),
        )
    )
