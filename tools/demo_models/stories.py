"""Small stories, told from a grammar: someone wants something, meets a difficulty, is helped, and comes home.

Stories are what streaming is shown with, so they are long enough (about 80 to 200 tokens) to be watched.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tools.demo_models import words

_OPENINGS = (
    "Once upon a time there was {a_hero} named {name}.",
    "Once upon a time, {a_hero} named {name} lived near a {place}.",
    "Long ago, in a small {place}, there lived {a_hero} called {name}.",
    "In a {place} far away lived {a_hero}. Everyone called it {name}.",
    "There was once {a_hero} named {name}, and {name} lived beside a {place}.",
    "{name} was {a_hero} who lived at the edge of a {place}.",
    "One morning, {a_hero} named {name} woke up early in the {place}.",
)
_WANTS = (
    "{name} wanted to find a {treasure} more than anything else.",
    "Every night {name} dreamed of a {treasure}.",
    "One day {name} heard that a {treasure} was hidden in the {goal}.",
    "An old map said that a {treasure} lay somewhere in the {goal}.",
    "{name} had lost a {treasure} and felt sad about it.",
    "{name} had promised to bring a {treasure} to a friend in the {goal}.",
)
_SETTING_OUT = (
    "So {who} packed some {food} and set out.",
    "So one {weather} morning {who} walked towards the {goal}.",
    "{name} took a deep breath and began the long walk.",
    "With a bag full of {food}, {who} started the journey.",
    "{name} left before the sun was up and did not look back.",
)
_TROUBLES = (
    "Soon the path ended at a deep river, and there was no bridge.",
    "Then it began to rain, and the wind blew harder and harder.",
    "But the night came quickly, and it was very dark.",
    "Halfway there, a great stone blocked the road.",
    "After a while {who} was lost and did not know which way to go.",
    "Then thick fog came down, and nothing could be seen.",
    "But a tall gate stood in the way, and it was locked.",
    "The hill was steep, and {who} grew tired and cold.",
)
_FEELINGS = (
    "The {hero} was afraid, but did not give up.",
    "The {hero} sat down and thought for a long time.",
    "The {hero} almost turned around to go home.",
    '"Is anybody there?" called {who}.',
    '"I will try once more," said {who}.',
    "{name} the {hero} felt very small.",
)
_HELPERS = (
    'A {adjective} {helper} came by and said, "Let me help you."',
    'Just then {a_helper} appeared. "I know this place well," it said.',
    '"Do not worry," said a {adjective} {helper}. "We can do it together."',
    "A {helper} named {friend} heard the call and came at once.",
    'Then {name} met a {helper} called {friend}. "Follow me," said {friend}.',
)
_TURNS = (
    "They shared the {food} and found a way, one step after the other.",
    "Together they worked until the evening, and at last the way was free.",
    "They laughed, they sang, and soon the trouble did not seem so big.",
    "The {helper} showed a hidden path that led straight to the {goal}.",
    "Side by side they went on, and the {goal} came into sight.",
)
_FINDS = (
    "There, under an old tree, lay the {treasure}.",
    "And behind a small {colour} door they found the {treasure}.",
    "In the middle of the {goal} the {treasure} was waiting for them.",
    "At the end of the day {who} held the {treasure} at last.",
    "The {treasure} was there, just as {who} had hoped.",
)
_ENDINGS = (
    "From that day on, the {hero} and the {helper} were the best of friends.",
    "{name} went home happy and told the story to everyone.",
    "And {who} learned that it is good to ask for help.",
    "That night {who} slept well and dreamed of the next journey.",
    "{name} smiled, for the best treasure was a friend.",
    "When they came home, they ate {food} and watched the stars.",
    "And if you walk through the {place} today, you may still hear them laugh.",
)
_FULL_STOPS = ("", "", "", " The end.")


@dataclass(frozen=True)
class Story:
    """A finished story with the facts that a follow-up question may ask for."""

    hero: str
    name: str
    helper: str
    treasure: str
    text: str


def tell(rng: random.Random, hero: str | None = None, name: str | None = None, helper: str | None = None) -> Story:
    """Tell a story; whatever is not given is drawn.

    `hero` and `helper` are bare nouns ("fox"), `name` a proper name.
    """
    hero = hero or rng.choice(words.ANIMALS + words.PEOPLE + words.THINGS_ALIVE)
    helper = helper or rng.choice(words.ANIMALS)
    name = name or words.person(rng)
    slots = {
        "hero": hero,
        "a_hero": _described(rng, hero),
        "name": name,
        "helper": helper,
        "a_helper": words.article(helper),
        "friend": rng.choice(words.FIRST_NAMES),
        "who": rng.choice((name, f"the {hero}")),
        "place": rng.choice(words.PLACES),
        "goal": rng.choice(words.PLACES),
        "treasure": rng.choice(words.TREASURES),
        "food": rng.choice(words.FOODS),
        "weather": rng.choice(("sunny", "cold", "bright", "windy", "foggy", "quiet")),
        "adjective": rng.choice(words.ADJECTIVES),
        "colour": rng.choice(words.COLOURS),
    }
    parts = [_OPENINGS, _WANTS, _SETTING_OUT, _TROUBLES, _HELPERS, _TURNS, _FINDS, _ENDINGS]
    if rng.random() < 0.5:
        parts.insert(4, _FEELINGS)
    text = " ".join(rng.choice(part).format(**slots) for part in parts) + rng.choice(_FULL_STOPS)
    return Story(hero=hero, name=name, helper=helper, treasure=slots["treasure"], text=text)


def _described(rng: random.Random, noun: str) -> str:
    """The noun with an article and, half of the time, an adjective before it."""
    if rng.random() < 0.5:
        noun = f"{rng.choice(words.ADJECTIVES)} {noun}"
    return words.article(noun)
