"""The Inference service: typed chat, completions and embeddings over the same runner as HTTP."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

from covey_gateway.core.front import DEADLINE_MS_MAX, AnswerHead, FrontDoor, IncomingRequest
from covey_gateway.core.sharing import CLASSES
from covey_gateway.io import grpc_translate as translate
from covey_gateway.io.grpc_call import MALFORMED, Call, CallError, malformed
from covey_gateway.io.status import PoolStatus
from covey_mesh.wire.v1 import inference_pb2 as wire
from covey_mesh.wire.v1 import inference_pb2_grpc

log = logging.getLogger(__name__)

PRIORITY_METADATA = "x-covey-priority"

Context = grpc.aio.ServicerContext[Any, Any]
Authenticate = Callable[[Context], Awaitable[str]]
"""Returns the key's owner, or aborts the call with UNAUTHENTICATED."""

_Chunk = TypeVar("_Chunk", wire.ChatChunk, wire.CompleteChunk)
_T = TypeVar("_T")
_Response = TypeVar("_Response", wire.ChatResponse, wire.CompleteResponse, wire.EmbedResponse)


class InferenceService(inference_pb2_grpc.InferenceServicer):
    """Translation only: every decision about a request is the runner's."""

    def __init__(self, door: FrontDoor, status: PoolStatus, authenticate: Authenticate) -> None:
        self._door = door
        self._status = status
        self._authenticate = authenticate

    async def Chat(self, request: wire.ChatRequest, context: Context) -> wire.ChatResponse:
        return await self._unary(
            context,
            request,
            "/v1/chat/completions",
            lambda: translate.chat_body(request, streaming=False),
            translate.chat_response,
        )

    async def Complete(self, request: wire.CompleteRequest, context: Context) -> wire.CompleteResponse:
        return await self._unary(
            context,
            request,
            "/v1/completions",
            lambda: translate.complete_body(request, streaming=False),
            translate.complete_response,
        )

    async def Embed(self, request: wire.EmbedRequest, context: Context) -> wire.EmbedResponse:
        return await self._unary(
            context, request, "/v1/embeddings", lambda: translate.embed_body(request), translate.embed_response
        )

    async def StreamChat(self, request: wire.ChatRequest, context: Context) -> AsyncIterator[wire.ChatChunk]:
        body = lambda: translate.chat_body(request, streaming=True)  # noqa: E731
        async for chunk in self._stream(context, request, "/v1/chat/completions", body, translate.chat_chunks):
            yield chunk

    async def StreamComplete(
        self, request: wire.CompleteRequest, context: Context
    ) -> AsyncIterator[wire.CompleteChunk]:
        body = lambda: translate.complete_body(request, streaming=True)  # noqa: E731
        async for chunk in self._stream(context, request, "/v1/completions", body, translate.complete_chunks):
            yield chunk

    async def ListModels(self, request: wire.ListModelsRequest, context: Context) -> wire.ListModelsResponse:
        await self._authenticate(context)
        return wire.ListModelsResponse(
            models=[
                wire.ModelInfo(
                    model=m.model, task=m.task, max_context_tokens=m.max_context_tokens, node_ids=list(m.node_ids)
                )
                for m in self._status.models()
            ]
        )

    async def _unary(
        self,
        context: Context,
        request: wire.ChatRequest | wire.CompleteRequest | wire.EmbedRequest,
        path: str,
        body: Callable[[], bytes],
        response: Callable[[Any, AnswerHead], _Response],
    ) -> _Response:
        user = await self._authenticate(context)
        try:
            async with Call(self._door, self._incoming(context, request, path, body(), user)) as call:
                parsed = await call.body()
                head = call.answer
                assert head is not None
                return _translated(lambda: response(parsed, head), head)
        except (CallError, translate.InvalidRequestError) as error:
            await _abort(context, error)

    async def _stream(
        self,
        context: Context,
        request: wire.ChatRequest | wire.CompleteRequest,
        path: str,
        body: Callable[[], bytes],
        chunks: Callable[[Any], Any],
    ) -> AsyncIterator[Any]:
        user = await self._authenticate(context)
        try:
            async with Call(self._door, self._incoming(context, request, path, body(), user)) as call:
                head = await call.opened()
                async for chunk in _with_served(_typed(call, chunks), translate.served(head)):
                    yield chunk
        except (CallError, translate.InvalidRequestError) as error:
            await _abort(context, error)

    def _incoming(
        self,
        context: Context,
        request: wire.ChatRequest | wire.CompleteRequest | wire.EmbedRequest,
        path: str,
        body: bytes,
        user: str,
    ) -> IncomingRequest:
        needed = None if isinstance(request, wire.EmbedRequest) else request.requirements
        if needed is not None and needed.min_context_tokens:
            self._check_context(request.model, needed.min_context_tokens)
        asked = priority(context.invocation_metadata(), "" if needed is None else needed.priority)
        return IncomingRequest(path, body, user, asked, _deadline_s(context, needed))

    def _check_context(self, model: str, needed_tokens: int) -> None:
        found = next((m for m in self._status.models() if m.model == model), None)
        if found is not None and found.max_context_tokens < needed_tokens:
            raise CallError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{model} takes {found.max_context_tokens} tokens, {needed_tokens} are required: ask for another model",
            )


async def _typed(call: Call, chunks: Callable[[Any], Any]) -> AsyncIterator[Any]:
    async for event in call.events():
        for chunk in _translated(functools.partial(_listed, chunks, event), call.answer):
            yield chunk


def _listed(chunks: Callable[[Any], Any], event: Any) -> list[Any]:
    return list(chunks(event))


def _translated(translation: Callable[[], _T], head: AnswerHead | None) -> _T:
    """Raises CallError for an answer that is not of the form that its path promises."""
    try:
        return translation()
    except MALFORMED:
        raise malformed(head) from None


async def _with_served(chunks: AsyncIterator[_Chunk], served: wire.Served) -> AsyncIterator[_Chunk]:
    """Names the machine in the first chunk and in the last, which is known only when the stream ends.

    One chunk is held back only once it carries usage, which is the engine's own last event: tokens are never delayed.
    """
    first = True
    held: _Chunk | None = None
    async for chunk in chunks:
        if held is not None:
            yield held
            held = None
        if first:
            chunk.served.CopyFrom(served)
            first = False
        if chunk.HasField("usage"):
            held = chunk
        else:
            yield chunk
    if held is not None:
        held.served.MergeFrom(served)
        yield held


def priority(metadata: Iterable[tuple[str, Any]] | None, field: str) -> int | None:
    """The class that `requirements.priority` or, without it, the metadata `x-covey-priority` asks for; None: neither.
    Raises InvalidRequestError."""
    given = field or next((value for name, value in metadata or () if name == PRIORITY_METADATA), "")
    word = given.lower() if isinstance(given, str) else "?"
    if word and word not in CLASSES:
        raise translate.InvalidRequestError(f"{PRIORITY_METADATA} must be interactive, normal or batch")
    return CLASSES.get(word)


def _deadline_s(context: Context, needed: wire.Requirements | None) -> float | None:
    """The earlier of the call's own deadline and the one asked for. Raises InvalidRequestError."""
    return deadline_s(context.time_remaining(), 0 if needed is None else needed.deadline_ms)


def deadline_s(of_call_s: float | None, asked_ms: int) -> float | None:
    """Seconds left; None for no deadline. A call's own deadline further away than DEADLINE_MS_MAX is none: clients
    that want none set huge ones. Raises InvalidRequestError for a huge `asked_ms`."""
    if asked_ms > DEADLINE_MS_MAX:
        raise translate.InvalidRequestError(f"requirements.deadline_ms must be at most {DEADLINE_MS_MAX}")
    given = [asked_ms / 1000] if asked_ms else []
    if of_call_s is not None and of_call_s <= DEADLINE_MS_MAX / 1000:
        given.append(max(0.0, of_call_s))
    return min(given, default=None)


async def _abort(context: Context, error: CallError | translate.InvalidRequestError) -> NoReturn:
    if isinstance(error, CallError):
        await context.abort(error.code, str(error), error.trailing_metadata())
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    raise AssertionError("abort returned")
