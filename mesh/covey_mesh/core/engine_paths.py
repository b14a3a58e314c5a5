"""Paths of an engine's HTTP interface that requests from clients may reach, on every machine.

An allow-list, kept twice on purpose: a gateway refuses the rest at its door, and a node refuses it again, since a
path from another machine is written into a request to an engine whose connections all clients share: a path with a
line break in it could begin a second request, and an engine's control routes are nobody's business. Not here: what a
path's body means (covey_gateway.core.paths).
"""

from __future__ import annotations

ENGINE_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/score",
        "/v1/rerank",
        "/v2/rerank",
        "/score",
        "/rerank",
        "/pooling",
        "/classify",
        "/tokenize",
        "/detokenize",
    }
)
"""POST, all of them."""
