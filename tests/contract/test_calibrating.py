"""Every engine can be measured right after it was loaded, gives way at once, and tells what of a prompt was cached.

This file runs before test_engine_contract.py, whose last test kills the engines.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.contract.answers import Answer, chat_body, request
from tests.contract.conftest import Subject
from tests.contract.test_engine_contract import CHAT, asked, until_running

from covey_node.core.meter import Meter
from covey_node.io.calibrating import Calibration
from covey_node.io.vllm import VllmEngine

pytestmark = pytest.mark.asyncio(loop_scope="session")

TIME_S = 10.0
"""More than the product allows: these machines are shared."""


async def test_it_is_measured_and_nothing_of_it_is_left(chat: Subject) -> None:
    meter = Meter()
    await Calibration(chat.engine, chat.info, meter, time.monotonic).run(TIME_S, print)
    speeds = meter.speeds(time.monotonic(), 0.0)
    assert meter.prefill_tokens_per_s > 10
    assert meter.stream_tokens_per_s(1) > 1
    assert {point.batch for point in speeds.decode} > {1}, "a batch of several was seen"
    assert len(speeds.prefill) >= 3
    assert speeds.source == "calibrated"
    await until_running(chat, 0)


async def test_an_embedding_model_is_measured(embed: Subject) -> None:
    meter = Meter()
    assert await Calibration(embed.engine, embed.info, meter, time.monotonic).run(TIME_S, print)
    assert meter.prefill_tokens_per_s > 10


async def test_it_gives_way_to_a_client(chat: Subject) -> None:
    meter = Meter()
    calibration = Calibration(chat.engine, chat.info, meter, time.monotonic)
    measuring = asyncio.ensure_future(calibration.run(TIME_S, print))
    await asyncio.sleep(0.1)
    calibration.abort()
    assert not await measuring
    answer = await asked(chat, CHAT, chat_body(stream=True, max_tokens=4, ignore_eos=True), streaming=True)
    assert (answer.status, answer.failure) == (200, None)
    await until_running(chat, 0)


@pytest.mark.vllm
@pytest.mark.timeout(600)
async def test_it_tells_what_was_cached(vllm_chat: Subject) -> None:
    text = " ".join(f"word{number * 7919 % 1000}" for number in range(100))
    asked_for = {"messages": [{"role": "user", "content": text}], "stream_options": {"include_usage": True}}
    body = chat_body(stream=True, max_tokens=4, **asked_for)
    told = []
    for _ in range(2):
        answer = Answer()
        vllm_chat.engine.open(request(CHAT, body, True), answer)
        answer.opened()
        await answer.complete()
        told.append(answer.events()[-1]["usage"])
    assert told[0]["prompt_tokens"] == told[1]["prompt_tokens"] > 200
    assert told[0]["prompt_tokens_details"]["cached_tokens"] < 32
    assert told[1]["prompt_tokens_details"]["cached_tokens"] > 100


@pytest.mark.vllm
@pytest.mark.timeout(600)
async def test_it_tells_what_its_cache_holds(vllm_chat: Subject) -> None:
    engine = vllm_chat.engine
    assert isinstance(engine, VllmEngine)
    before = engine.cache.held_tokens
    text = " ".join(f"bird{number * 6151 % 1000}" for number in range(150))
    await asked(vllm_chat, CHAT, chat_body(messages=[{"role": "user", "content": text}], max_tokens=4))
    async with asyncio.timeout(10):
        while engine.cache.held_tokens < before + 200:  # noqa: ASYNC110 (another process changes it)
            await asyncio.sleep(0.05)
    assert engine.cache.known
    assert engine.cache.held_tokens <= vllm_chat.info.kv_cache_tokens
