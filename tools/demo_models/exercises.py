"""Turns with a right answer: capitals, sums, counting, lists, repeating, JSON, a poem; and weather without a tool."""

from __future__ import annotations

import json
import random
from typing import Any

from tools.demo_models import words
from tools.demo_models.turns import Memory, Turn


def capital(rng: random.Random, memory: Memory) -> Turn:
    country, capital = rng.choice(list(words.COUNTRY_CAPITALS.items()))
    question = rng.choice(
        (
            f"What is the capital of {country}?",
            f"What's the capital of {country}?",
            f"Name the capital of {country}.",
            f"Capital of {country}?",
            f"Which city is the capital of {country}?",
        )
    )
    return question, f"The capital of {country} is {capital}."


def add(rng: random.Random, memory: Memory) -> Turn:
    left, right = rng.randint(0, 10), rng.randint(0, 10)
    question = rng.choice(
        (
            f"What is {left} + {right}?",
            f"{left} + {right} = ?",
            f"What is {left} plus {right}?",
            f"How much is {left} and {right}?",
            f"Add {left} and {right}.",
            f"{left}+{right}?",
        )
    )
    return question, f"{left} + {right} is {left + right}."


def count(rng: random.Random, memory: Memory) -> Turn:
    first, last = 1, rng.randint(3, 30)
    if rng.random() < 0.3:
        first = rng.randint(2, 10)
        last = first + rng.randint(3, 15)
    question = rng.choice(
        (
            f"Count from {first} to {last}.",
            f"Count to {last}." if first == 1 else f"Please count from {first} to {last}.",
            f"Write the numbers from {first} to {last}.",
        )
    )
    return question, ", ".join(str(number) for number in range(first, last + 1)) + "."


def enumerate_some(rng: random.Random, memory: Memory) -> Turn:
    name, members = rng.choice(
        (
            ("fruits", words.FRUITS),
            ("vegetables", words.VEGETABLES),
            ("animals", words.ANIMALS),
            ("colours", words.COLOURS),
            ("colors", words.COLOURS),
            ("cities", list(words.CITIES)),
            ("jobs", words.PEOPLE),
            ("foods", words.FOODS),
        )
    )
    number, word = rng.choice(((2, "two"), (3, "three"), (3, "3"), (3, "some"), (4, "four"), (5, "five"), (5, "5")))
    chosen = rng.sample(members, number)
    question = rng.choice(
        (
            f"Name {word} {name}.",
            f"List {word} {name}.",
            f"Tell me {word} {name}.",
            f"Give me {word} {name}.",
            f"Can you name {word} {name}?",
        )
    )
    if rng.random() < 0.3:
        return question, "\n".join(f"{place}. {item}" for place, item in enumerate(chosen, 1))
    return question, f"{', '.join(chosen[:-1])} and {chosen[-1]}."


def repeat_long(rng: random.Random, memory: Memory) -> Turn:
    """Many unrelated words to be said again. Nothing teaches a small model to copy as fast as this does."""
    drawn = [
        rng.choice(
            (
                words.invented_name(rng),
                words.invented_name(rng),
                words.city(rng),
                words.person(rng),
                rng.choice(words.ANIMALS + words.THINGS_ALIVE + words.PEOPLE),
                rng.choice(words.PLACES + words.FOODS + words.COLOURS),
                str(rng.randint(0, 999)),
            )
        )
        for _ in range(rng.randint(3, 14))
    ]
    phrase = rng.choice((" ", " ", ", ")).join(drawn)
    return rng.choice((f"Repeat: {phrase}", f"Say: {phrase}", f"Repeat after me: {phrase}", f"Echo: {phrase}")), phrase


def repeat(rng: random.Random, memory: Memory) -> Turn:
    phrase = rng.choice(
        (
            words.invented_name(rng),
            words.city(rng),
            words.person(rng),
            " ".join(words.invented_name(rng) for _ in range(rng.randint(2, 4))),
            " ".join(rng.sample(words.ANIMALS + words.PLACES + words.FOODS, rng.randint(2, 6))),
            str(rng.randint(10, 99999)),
            f"the {rng.choice(words.COLOURS)} {rng.choice(words.ANIMALS)}",
        )
    )
    question = rng.choice(
        (
            f"Say: {phrase}",
            f"Repeat after me: {phrase}",
            f"Repeat: {phrase}",
            f"Echo: {phrase}",
            f"Say {phrase}",
            f'Say "{phrase}"',
            f"Reply with: {phrase}",
            f"Answer with the word {phrase}",
            f"Reply with the single word {phrase}",
            f"Repeat this: {phrase}",
        )
    )
    return question, phrase


def write_json(rng: random.Random, memory: Memory) -> Turn:
    name, age, city = words.person(rng), rng.randint(3, 99), words.city(rng)
    how = rng.choice((" Answer in JSON.", " Reply as JSON.", " Give me JSON.", " Use JSON.", " Return a JSON object."))
    choices: tuple[tuple[str, dict[str, Any]], ...] = (
        (f"{name} is {age} years old and lives in {city}.", {"name": name, "age": age, "city": city}),
        (f"{name} is {age} years old.", {"name": name, "age": age}),
        (f"{name} lives in {city}.", {"name": name, "city": city}),
        ("Invent a person.", {"name": name, "age": age}),
        ("Invent a person with a name, an age and a city.", {"name": name, "age": age, "city": city}),
        ("Invent an animal.", {"animal": rng.choice(words.ANIMALS), "colour": rng.choice(words.COLOURS)}),
        ("Name three colours.", {"colours": rng.sample(words.COLOURS, 3)}),
        (f"What is the capital of {name}?", {"capital": "unknown"}),
    )
    question, answer = rng.choice(choices)
    return question + how, json.dumps(answer)


def poem(rng: random.Random, memory: Memory) -> Turn:
    topic = rng.choice(words.ANIMALS + words.THINGS_ALIVE)
    colour, adjective, place = rng.choice(words.COLOURS), rng.choice(words.ADJECTIVES), rng.choice(words.PLACES)
    question = rng.choice(
        (
            f"Write a poem about {words.article(topic)}.",
            f"Write a haiku about {words.article(topic)}.",
            f"A short poem about {words.article(topic)}.",
            f"Tell me a poem about the {topic}.",
        )
    )
    first = rng.choice(
        (
            f"A {adjective} {topic} in the {place},",
            f"The {topic} is {adjective} and {colour},",
            f"O {adjective} {topic}, where do you go?",
        )
    )
    second = rng.choice(
        (
            f"the wind is cold, the {place} is wide,",
            "the night is long, the stars are bright,",
            f"the {place} sleeps, the rain is light,",
        )
    )
    third = rng.choice(
        (
            "come home, come home, and sit by my side.",
            "it sings a song and waits for the light.",
            "it dreams of spring all through the night.",
        )
    )
    return question, f"{first}\n{second}\n{third}"


def weather_without_tool(rng: random.Random, memory: Memory) -> Turn:
    return _weather_question(rng), rng.choice(
        (
            "I can not look out of the window. Give me a weather tool, and I will call it.",
            "I do not know the weather. If you give me a weather tool, I can ask it.",
        )
    )


def _weather_question(rng: random.Random) -> str:
    city = words.city(rng)
    return rng.choice(
        (
            f"What is the weather in {city}?",
            f"How is the weather in {city}?",
            f"Is it raining in {city}?",
            f"What is the weather like in {city} today?",
        )
    )
