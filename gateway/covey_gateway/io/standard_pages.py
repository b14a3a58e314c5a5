"""The pages that every gateway serves: models in OpenAI's shape, health, readiness, metrics."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

import msgspec

from covey_gateway.core.errors import Code, model_not_found, unavailable
from covey_gateway.core.known_models import KnownModel, known_models
from covey_gateway.core.pages import Access, PlainRequest, PlainResponse, Route, Routes
from covey_mesh.core.facts import PoolView

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NOT_READY_RETRY_S = 5


class StandardPages:
    """`view` is this machine's; `metrics` renders Prometheus' text format; `created_unix_s`: when the agent started."""

    def __init__(
        self,
        view: Callable[[], PoolView],
        metrics: Callable[[], bytes],
        created_unix_s: int,
        metrics_access: Access = Access.KEYED,
    ) -> None:
        self._view = view
        self._metrics = metrics
        self._created_unix_s = created_unix_s
        self._metrics_access = metrics_access

    def routes(self) -> Routes:
        exact = {
            ("GET", "/v1/models"): Route(self.models),
            ("GET", "/health"): Route(self.health, Access.OPEN),
            ("GET", "/ready"): Route(self.ready, Access.OPEN),
            ("GET", "/metrics"): Route(self.metrics, self._metrics_access),
        }
        return Routes(exact, {("GET", "/v1/models/"): Route(self.model)})

    async def models(self, request: PlainRequest) -> PlainResponse:
        view = self._view()
        return _json({"object": "list", "data": [self._model(view, each) for each in known_models(view)]})

    async def model(self, request: PlainRequest) -> PlainResponse:
        """Model names may hold slashes. Raises GatewayError 404 with what there is."""
        view, wanted = self._view(), unquote(request.tail)
        models = known_models(view)
        for each in models:
            if each.model == wanted:
                return _json(self._model(view, each))
        raise model_not_found(wanted, [each.model for each in models])

    async def health(self, request: PlainRequest) -> PlainResponse:
        """The process answers; nothing is said of engines or peers."""
        return _json({"status": "ok"})

    async def ready(self, request: PlainRequest) -> PlainResponse:
        """200 only if some model can be served by some machine. Raises GatewayError 503."""
        models = known_models(self._view())
        if not models:
            message = "No model is ready on any reachable machine. See `covey ps` for what is starting or failed."
            raise unavailable(Code.NOTHING_ABLE_TO_SERVE, message, NOT_READY_RETRY_S)
        return _json({"status": "ready", "models": len(models)})

    async def metrics(self, request: PlainRequest) -> PlainResponse:
        return PlainResponse(200, METRICS_TYPE, self._metrics())

    def _model(self, view: PoolView, model: KnownModel) -> dict[str, object]:
        machines = [{"id": node_id, "name": view.members[node_id].facts.name} for node_id in model.node_ids]
        return {
            "id": model.model,
            "object": "model",
            "created": self._created_unix_s,
            "owned_by": "covey",
            "root": model.model,
            "parent": None,
            "max_model_len": model.max_context_tokens or None,
            "task": model.task,
            "machines": machines,
        }


def _json(value: object) -> PlainResponse:
    return PlainResponse(body=msgspec.json.encode(value))
