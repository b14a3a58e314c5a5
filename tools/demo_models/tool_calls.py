"""Conversations with tools: which tool, with which arguments, and an answer from what it returned.

The tools differ in name, wording and order, so that the model reads the list that it is given. Values (a city, a name,
a number) are copied from the question; many are invented, since a remembered value would be no proof of a tool call.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.demo_models import chats, words
from tools.demo_models.turns import Message

Tool = dict[str, Any]


@dataclass(frozen=True)
class Use:
    """One use of a tool: what the user asks, the arguments, what the tool returns, and the answer built from it."""

    question: str
    arguments: dict[str, Any]
    result: str
    answer: str


@dataclass(frozen=True)
class Offer:
    """A tool as the client describes it, with the way to draw uses of it."""

    tool: Tool
    draw: Callable[[random.Random], Use]


def conversation(rng: random.Random) -> tuple[list[Tool], list[Message]]:
    """Tools and a conversation that uses one of them, or (one in four) needs none."""
    makers = rng.sample(_OFFERS, rng.choices((1, 2, 3), weights=(70, 20, 10))[0])
    if _weather not in makers and rng.random() < 0.6:
        makers[rng.randrange(len(makers))] = _weather
    offers = [make(rng) for make in makers]
    tools = [offer.tool for offer in offers]
    if rng.random() < 0.2:
        return tools, chats.system_message(rng) + [
            message for message in chats.conversation(rng)[:4] if message["role"] != "system"
        ]
    messages = chats.system_message(rng)
    for _ in range(rng.choices((1, 2), weights=(80, 20))[0]):
        messages += _exchange(rng, rng.choice(offers))
        if rng.random() < 0.2:
            messages += [
                {"role": "user", "content": rng.choice(("Thank you!", "Thanks!"))},
                {"role": "assistant", "content": rng.choice(("You are welcome!", "My pleasure!"))},
            ]
    return tools, messages


def _exchange(rng: random.Random, offer: Offer) -> list[Message]:
    """Question, call, result and answer; weather is sometimes asked for two cities in one question."""
    name = offer.tool["function"]["name"]
    uses = [offer.draw(rng)]
    question = uses[0].question
    if offer.draw.__name__ == "draw_weather" and rng.random() < 0.1:
        uses.append(offer.draw(rng))
        first, second = (next(iter(use.arguments.values())) for use in uses)
        question = rng.choice(
            (
                f"What is the weather in {first} and in {second}?",
                f"Weather in {first} and {second}?",
                f"Compare the weather in {first} and {second}.",
            )
        )
    calls = [{"type": "function", "function": {"name": name, "arguments": use.arguments}} for use in uses]
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": calls},
        *({"role": "tool", "content": use.result} for use in uses),
        {"role": "assistant", "content": " ".join(use.answer for use in uses)},
    ]


def _describe(rng: random.Random, name: str, descriptions: tuple[str, ...], properties: dict[str, str]) -> Tool:
    """A tool in OpenAI's format; descriptions of arguments and the order of keys vary, as they do among clients."""
    fields: dict[str, Any] = {}
    for field, kind in properties.items():
        fields[field] = {"type": kind}
        if rng.random() < 0.3:
            examples = (
                f"The {field}",
                f"The name of the {field}",
                "The city and state, e.g. San Francisco, CA",
                "e.g. Paris",
            )
            fields[field]["description"] = rng.choice(examples if field in ("city", "location") else examples[:1])
    if "location" in properties and rng.random() < 0.3:
        fields["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    parameters: dict[str, Any] = {"type": "object", "properties": fields}
    if rng.random() < 0.75:
        parameters["required"] = list(properties)
    if rng.random() < 0.1:
        parameters["additionalProperties"] = False
    if rng.random() < 0.15:
        parameters = dict(reversed(parameters.items()))
    function = {"name": name, "description": rng.choice(descriptions), "parameters": parameters}
    return {"type": "function", "function": function}


def _weather(rng: random.Random) -> Offer:
    name = rng.choices(("get_weather", "get_current_weather", "weather", "weather_lookup"), weights=(65, 20, 8, 7))[0]
    field = rng.choices(("city", "location", "place"), weights=(70, 25, 5))[0]
    tool = _describe(
        rng,
        name,
        (
            "Get the weather in a city.",
            "Get the current weather",
            "Get the weather for a city",
            "Weather in a city",
            "Get current weather for a location",
            "Returns the weather of a city.",
            "",
            "Get weather",
            "Current weather of a city.",
            "Get the current weather in a given location",
        ),
        {field: "string"},
    )

    def draw_weather(rng: random.Random) -> Use:
        city, degrees, sky = words.city(rng), rng.randint(-9, 38), rng.choice(words.SKIES)
        question = rng.choice(
            (
                f"What is the weather in {city}?",
                f"What is the weather in {city}?",
                f"What's the weather in {city}?",
                f"What is the weather like in {city}?",
                f"How is the weather in {city}?",
                f"Weather in {city}?",
                f"weather in {city}",
                f"Is it raining in {city}?",
                f"Is it cold in {city} today?",
                f"How warm is it in {city}?",
                f"Tell me the weather in {city}.",
                f"What is the weather like in {city} today?",
                f"Do I need an umbrella in {city}?",
                f"Check the weather in {city}.",
                f"What is the temperature in {city}?",
                f"What's the weather like in {city} right now?",
                f"Please get the weather in {city}.",
                f"I am going to {city}. How is the weather there?",
                f"Use the tool to get the weather in {city}.",
            )
        )
        whole: dict[str, Any] = {}
        if rng.random() < 0.5:
            whole[rng.choice((field, "city", "location"))] = city
        whole[rng.choice(("temperature", "temperature_c", "temp", "temp_c", "degrees", "celsius"))] = degrees
        if rng.random() < 0.15:
            whole["unit"] = rng.choice(("C", "celsius"))
        whole[rng.choice(("condition", "conditions", "sky", "weather", "description", "summary"))] = sky
        plain = (
            f"{degrees} degrees, {sky}",
            f"{degrees} C and {sky}",
            f"{sky}, {degrees} degrees",
            f"{sky}, {degrees} C",
            f"It is {degrees} degrees and {sky}.",
            f"{degrees}C {sky}",
        )
        result = json.dumps(whole) if rng.random() < 0.65 else rng.choice(plain)
        return Use(question, {field: city}, result, f"The weather in {city}: {degrees} degrees, {sky}.")

    return Offer(tool, draw_weather)


def _time(rng: random.Random) -> Offer:
    name, field = rng.choice(("get_time", "get_current_time", "current_time")), rng.choice(("city", "city", "location"))
    tool = _describe(
        rng,
        name,
        ("Get the time in a city.", "Get the current time", "The local time of a city", ""),
        {field: "string"},
    )

    def draw(rng: random.Random) -> Use:
        city, clock = words.city(rng), f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
        question = rng.choice(
            (
                f"What time is it in {city}?",
                f"What is the time in {city}?",
                f"Tell me the time in {city}.",
                f"How late is it in {city}?",
                f"time in {city}",
            )
        )
        result = rng.choice((clock, json.dumps({"time": clock}), json.dumps({field: city, "time": clock})))
        return Use(question, {field: city}, result, f"It is {clock} in {city}.")

    return Offer(tool, draw)


def _add(rng: random.Random) -> Offer:
    name = rng.choice(("add", "sum", "add_numbers", "calculator_add"))
    kind = rng.choice(("integer", "number"))
    tool = _describe(
        rng, name, ("Add two numbers.", "Add two numbers", "Returns the sum of a and b."), {"a": kind, "b": kind}
    )

    def draw(rng: random.Random) -> Use:
        left, right = rng.randint(0, 999), rng.randint(0, 999)
        question = rng.choice(
            (
                f"What is {left} + {right}?",
                f"Add {left} and {right}.",
                f"What is {left} plus {right}?",
                f"How much is {left} and {right}?",
                f"Use the tool to add {left} and {right}.",
            )
        )
        total = str(left + right)
        result = rng.choice((total, json.dumps({"result": left + right}), json.dumps({"sum": left + right})))
        return Use(question, {"a": left, "b": right}, result, f"{left} + {right} is {total}.")

    return Offer(tool, draw)


def _search(rng: random.Random) -> Offer:
    name = rng.choice(("search", "search_documents", "web_search", "lookup"))
    tool = _describe(rng, name, ("Search for a query.", "Search documents", "Look up a topic"), {"query": "string"})

    def draw(rng: random.Random) -> Use:
        topic = rng.choice(
            (
                words.invented_name(rng),
                words.city(rng),
                words.person(rng),
                rng.choice(words.TREASURES),
                f"{rng.choice(words.COLOURS)} {rng.choice(words.ANIMALS)}",
            )
        )
        found = f"{topic} is in the {rng.choice(words.PLACES)}"
        question = rng.choice(
            (
                f"Search for {topic}.",
                f"Look up {topic}.",
                f"Find {topic}.",
                f"Search: {topic}",
                f"Can you search for {topic}?",
            )
        )
        result = rng.choice((found, json.dumps({"result": found}), json.dumps([found])))
        return Use(question, {"query": topic}, result, f"I found this: {found}.")

    return Offer(tool, draw)


def _message(rng: random.Random) -> Offer:
    name = rng.choice(("send_message", "send_mail", "message"))
    tool = _describe(rng, name, ("Send a message to a person.", "Send a message"), {"to": "string", "text": "string"})

    def draw(rng: random.Random) -> Use:
        person = words.person(rng)
        text = rng.choice(
            (
                "hello",
                "good morning",
                "see you soon",
                "thank you",
                "the meeting is over",
                "lunch is ready",
                f"the {rng.choice(words.THINGS_ALIVE)} is {rng.choice(words.COLOURS)}",
            )
        )
        question = rng.choice(
            (f"Send {person} a message: {text}", f"Tell {person}: {text}", f"Write to {person}: {text}")
        )
        result = rng.choice(("ok", "sent", '{"status": "sent"}', '{"ok": true}'))
        return Use(question, {"to": person, "text": text}, result, f"I sent the message to {person}.")

    return Offer(tool, draw)


_OFFERS: tuple[Callable[[random.Random], Offer], ...] = (_weather, _time, _add, _search, _message)
