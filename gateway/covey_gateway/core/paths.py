"""Which request paths go to an engine: an allow-list, so that an engine's control routes are never reachable.

Not here: how a path is served (http edge) and what its body means (routing_fields.py).
"""

from __future__ import annotations

import enum


class PathKind(enum.Enum):
    """What a path's body holds, as far as routing cares."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    OTHER = "other"


ENGINE_PATHS: dict[str, PathKind] = {
    "/v1/chat/completions": PathKind.CHAT,
    "/v1/completions": PathKind.COMPLETION,
    "/v1/embeddings": PathKind.EMBEDDING,
    "/v1/responses": PathKind.CHAT,
    "/v1/messages": PathKind.CHAT,
    "/v1/messages/count_tokens": PathKind.OTHER,
    "/v1/score": PathKind.EMBEDDING,
    "/v1/rerank": PathKind.EMBEDDING,
    "/v2/rerank": PathKind.EMBEDDING,
    "/score": PathKind.EMBEDDING,
    "/rerank": PathKind.EMBEDDING,
    "/pooling": PathKind.EMBEDDING,
    "/classify": PathKind.EMBEDDING,
    "/tokenize": PathKind.OTHER,
    "/detokenize": PathKind.OTHER,
}
"""POST paths passed to the engine as they are."""
