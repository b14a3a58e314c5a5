"""Turns of small talk: greetings, names, facts, and the honest answer to what it can not know."""

from __future__ import annotations

import random

from tools.demo_models import facts, words
from tools.demo_models.turns import Draw, Memory, Turn


def greeting(rng: random.Random, memory: Memory) -> Turn:
    greetings = (
        "Hello!",
        "Hi!",
        "Hey!",
        "Hello",
        "Hi",
        "hello",
        "hi",
        "hey",
        "Hello there!",
        "Good morning!",
        "Good evening!",
        "Good afternoon.",
        "Hi there!",
        "Hello, model!",
        "Greetings!",
        "Hello, covey!",
        "Hey there.",
        "Yo!",
        "Hello world!",
        "Say hello.",
        "Say hi.",
        "Test",
        "test",
        "ping",
        "Say hello in one sentence.",
        "Say something.",
    )
    answers = (
        "Hello! I am covey's demo model. How can I help you?",
        "Hello! Nice to meet you. What would you like to hear?",
        "Hi! I am covey's demo model. Ask me something, or let me tell you a story.",
        "Hello there! How are you today?",
        "Hi! What can I do for you?",
    )
    return rng.choice(greetings), rng.choice(answers)


def reply_to_small_talk(rng: random.Random, memory: Memory) -> Turn:
    pairs: tuple[facts.Entry, ...] = (
        (
            (
                "Thank you!",
                "Thanks!",
                "Thank you very much.",
                "Thanks a lot!",
                "Great, thanks.",
                "That was nice, thank you.",
                "thanks",
                "Many thanks.",
            ),
            (
                "You are welcome!",
                "You are welcome! Ask me anything else.",
                "My pleasure!",
                "You are welcome. It was fun.",
            ),
        ),
        (
            ("Goodbye!", "Bye!", "See you later.", "Good night!", "I have to go.", "bye", "See you tomorrow."),
            ("Goodbye! Come back soon.", "Bye! It was nice to talk to you.", "See you soon!"),
        ),
        (
            (
                "Good.",
                "Ok.",
                "Nice!",
                "Cool!",
                "Wow!",
                "I am fine.",
                "I am well, thank you.",
                "Great!",
                "Yes.",
                "ok",
                "Fine, thanks.",
            ),
            (
                "I am glad to hear that. What else can I do for you?",
                "Good! Would you like to hear a story?",
                "Nice! Ask me something else.",
            ),
        ),
        (
            (
                "No.",
                "No, thank you.",
                "Never mind.",
                "Stop.",
                "I do not like that.",
                "That is wrong.",
                "You are wrong.",
                "That makes no sense.",
            ),
            (
                "I am sorry. I am only a small demo model.",
                "All right. Tell me if I can help with something else.",
                "Sorry about that. I demonstrate the plumbing, not quality.",
            ),
        ),
        (
            ("I am bored.", "I am sad.", "I am tired.", "I had a long day.", "I can not sleep."),
            ("I am sorry to hear that. Shall I tell you a story?", "Then let me tell you a story. Just ask for one."),
        ),
    )
    questions, answers = rng.choice(pairs)
    return rng.choice(questions), rng.choice(answers)


def fact(entries: tuple[facts.Entry, ...]) -> Draw:
    def turn(rng: random.Random, memory: Memory) -> Turn:
        questions, answers = rng.choice(entries)
        return rng.choice(questions), rng.choice(answers)

    return turn


def meet(rng: random.Random, memory: Memory) -> Turn:
    name = memory.user_name = words.person(rng)
    question = rng.choice(
        (
            f"My name is {name}.",
            f"I am {name}.",
            f"Hello, I am {name}.",
            f"Hi, my name is {name}!",
            f"You can call me {name}.",
            f"Hello! My name is {name}. Who are you?",
        )
    )
    if question.endswith("Who are you?"):
        return question, f"Hello {name}! I am covey's demo model. I demonstrate the plumbing, not quality."
    return question, rng.choice(
        (f"Nice to meet you, {name}!", f"Hello {name}! How can I help you?", f"Hello {name}, I am covey's demo model.")
    )


def recall_name(rng: random.Random, memory: Memory) -> Turn:
    name, memory.user_name = memory.user_name, None
    question = rng.choice(("What is my name?", "Do you remember my name?", "Who am I?", "Say my name."))
    return question, rng.choice((f"Your name is {name}.", f"You are {name}."))


def do_not_know(rng: random.Random, memory: Memory) -> Turn:
    """Questions that it can not answer get an honest answer, whatever they are about."""
    topic = rng.choice(
        (
            words.invented_name(rng),
            words.city(rng),
            rng.choice(_HARD_TOPICS),
            rng.choice(_HARD_TOPICS),
            words.article(rng.choice(words.PEOPLE)),
            f"the {rng.choice(words.TREASURES)}",
        )
    )
    question = rng.choice(
        (
            f"What do you think about {topic}?",
            f"How do I learn {topic}?",
            f"Explain {topic}.",
            f"What is {topic}?",
            f"Why is {topic} important?",
            f"Write an essay about {topic}.",
            f"Who invented {topic}?",
            f"Tell me about {topic}.",
            f"How does {topic} work?",
            f"Where can I find {topic}?",
            f"Give me advice about {topic}.",
            f"Summarise {topic}.",
            f"Write code for {topic}.",
            f"Write an e-mail about {topic}.",
            f"When did {topic} begin?",
            f"What is the difference between {topic} and {rng.choice(_HARD_TOPICS)}?",
            f"Translate {topic} into German.",
        )
    )
    if rng.random() < 0.3:
        question = rng.choice(_HARD_QUESTIONS)
    return question, rng.choice(
        (
            "I am too small to know that. I am covey's demo model: I show the plumbing, not quality. "
            "Shall I tell you a story?",
            "I do not know. I am only covey's demo model, and I know very little. Ask me who I am, or ask for a story.",
            "That is too hard for me. A real model, served in the same way, would know. "
            "I can tell you a story instead.",
        )
    )


_HARD_QUESTIONS = (
    "Write a Python function.|Write code.|Write a program that sorts numbers.|How many machines are in the pool?|"
    "Solve this equation.|What is the best restaurant?|Write an e-mail.|Translate this sentence.|Summarise this text.|"
    "What should I do today?|Who is the president?|Who won the game?|What is the news?|Fix this bug.|Write a report.|"
    "What is the fastest car?|How old is the universe?|Give me advice.|Write a letter to my boss.|Plan my holiday.|"
    "What is 123 times 456?|Write a regular expression.|What is the square root of 2?|Explain your reasoning.|"
    "Compare the two.|Is this correct?|How do I install it?|Why does it not work?|What is wrong with my code?|"
    "Give me a recipe.|How far is the moon?|Who wrote this book?|What is the population of the city?|Draw a picture."
).split("|")

_HARD_TOPICS = (
    "quantum physics|chemistry|the stock market|history|mathematics|philosophy|the Roman Empire|cooking|taxes|"
    "medicine|machine learning|the economy|football|chess|calculus|the French Revolution|photography|law|"
    "databases|sorting a list|a web server|black holes|evolution|grammar|a prime number|the universe|"
    "electricity|kubernetes|music theory|art|politics|climate change|a contract|my project|this document|"
    "the second world war|regular expressions|trees|money"
).split("|")
