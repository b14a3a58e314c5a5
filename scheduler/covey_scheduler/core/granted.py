"""What gateways may start without asking, or have started so and not told as over: the leader's account of its grants.

A grant counts until it has expired and a machine's report must show what was begun under it, less what was told before
then. Apart from that, a gateway is believed for as many requests as it was ever granted: what is told twice, or by
who was granted nothing, is not counted.

Not here: when there is a grant (grants.py), what is made of what was told (scheduler.py).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from covey_mesh.core.asking import Grant
from covey_mesh.core.names import NodeId
from covey_scheduler.core.clean_ask import PRIORITY_LOWEST
from covey_scheduler.core.filters import Rejection
from covey_scheduler.core.grants import grant_with, nobody_else, places_left
from covey_scheduler.core.machine import REQUESTS_MAX
from covey_scheduler.core.policy import Ranking
from covey_scheduler.core.room import Audience
from covey_scheduler.core.settings import SchedulerSettings

GRANTS_MAX = 64
"""Outstanding for one model: no more are given."""

UNTOLD_MAX = 4096
"""Gateways and models of which something may still be told; the one granted nothing for longest is forgotten."""

PACE_WINDOW_S = 0.05
"""What is told as over is counted over at least this time."""

PACE_KEPT_S = 1.0
"""A machine may have got slower since it showed what it can do."""

NOBODY: Sequence[Rejection] = ()


class _Given:
    """One grant: what is left of it until it no longer counts."""

    __slots__ = ("gateway", "requests", "tokens", "until_s")

    def __init__(self, gateway: NodeId, requests: int, tokens: int, until_s: float) -> None:
        self.gateway = gateway
        self.requests = requests
        self.tokens = tokens
        self.until_s = until_s


class _Model:
    """All grants of one model, oldest first, with their sums. `rejected`: whom `alone` was found out about."""

    __slots__ = (
        "_done_since_s",
        "_done_tokens",
        "_pace",
        "_pace_at_s",
        "alone",
        "given",
        "rejected",
        "requests",
        "tokens",
    )

    def __init__(self) -> None:
        self.given: deque[_Given] = deque()
        self.requests = 0
        self.tokens = 0
        self.rejected = NOBODY
        self.alone = True
        self._done_since_s = float("-inf")
        self._done_tokens = 0
        self._pace = 0.0
        self._pace_at_s = float("-inf")

    def finished(self, now_s: float, prompt_tokens: int) -> None:
        """Prompts of requests that are over."""
        self._done_tokens += prompt_tokens
        seconds = now_s - self._done_since_s
        if seconds < PACE_WINDOW_S:
            return
        pace = self._done_tokens / seconds
        if pace >= self._pace or now_s - self._pace_at_s > PACE_KEPT_S:
            self._pace, self._pace_at_s = pace, now_s
        self._done_since_s, self._done_tokens = now_s, 0

    def pace(self, now_s: float) -> float:
        """Prompt tokens a second that the machine has lately been seen to finish; 0.0: not known."""
        return self._pace if now_s - self._pace_at_s <= PACE_KEPT_S else 0.0

    def expire(self, now_s: float) -> None:
        while self.given and self.given[0].until_s <= now_s:
            self._take(self.given[0], self.given[0].requests)
            self.given.popleft()

    def add(self, given: _Given) -> None:
        self.given.append(given)
        self.requests += given.requests
        self.tokens += given.tokens

    def ended(self, gateway: NodeId, requests: int) -> None:
        """Of this gateway's grants, the oldest first; each request with the mean of its grant's tokens."""
        for given in [each for each in self.given if each.gateway == gateway]:
            count = min(requests, given.requests)
            self._take(given, count)
            if not given.requests:
                self.given.remove(given)
            requests -= count
            if not requests:
                return

    def _take(self, given: _Given, count: int) -> None:
        tokens = given.tokens * count // given.requests
        given.requests -= count
        given.tokens -= tokens
        self.requests -= count
        self.tokens -= tokens


class Granted:
    """Of one leader, for all models. Times are readings of the clock that events carry."""

    def __init__(self, settings: SchedulerSettings, audience: Audience) -> None:
        self._settings = settings
        self._audience = audience
        self._counts_s = settings.grant_valid_s + settings.settle_s
        self._models: OrderedDict[str, _Model] = OrderedDict()
        self._untold: OrderedDict[tuple[NodeId, str], int] = OrderedDict()

    def grant(self, now_s: float, gateway: NodeId, ranking: Ranking) -> Grant | None:
        """What comes with the assignment of this ranking's ask to its only machine, counted from now on."""
        ask, settings, audience = ranking.question.ask, self._settings, self._audience
        name = ask.model
        model = self._models.get(name)
        if model is None:
            model = self._model(name)
        if model.given:
            model.expire(now_s)
        places = places_left(ranking, model.requests, settings)
        if places < 1 or len(model.given) >= GRANTS_MAX or not self._alone(model, ranking.rejected):
            return None
        if ask.priority >= PRIORITY_LOWEST and audience.pressing(name, now_s):
            return None
        others = audience.others(name, ask.user, now_s)
        grant = grant_with(ranking, places, others, model.requests, model.tokens, model.pace(now_s), settings)
        if grant is not None:
            model.add(_Given(gateway, grant.requests, grant.prompt_tokens, now_s + self._counts_s))
            self._owes(gateway, name, grant.requests)
        return grant

    def told(self, gateway: NodeId, name: str, requests: int) -> int:
        """So many are over, or known by an ask of their own; returns how many of them are believed."""
        untold = self._untold.get((gateway, name), 0)
        believed = max(0, min(requests, untold))
        if believed == untold:
            self._untold.pop((gateway, name), None)
        else:
            self._untold[gateway, name] = untold - believed
        model = self._models.get(name)
        if believed and model is not None:
            model.ended(gateway, believed)
        return believed

    def finished(self, now_s: float, name: str, prompt_tokens: int) -> None:
        """Of requests that were told as over and believed."""
        model = self._models.get(name)
        if model is not None:
            model.finished(now_s, prompt_tokens)

    def outstanding(self, name: str, now_s: float) -> tuple[int, int]:
        """(requests, prompt tokens) of one model."""
        model = self._models.get(name)
        if model is None:
            return 0, 0
        model.expire(now_s)
        return model.requests, model.tokens

    def remove_gateway(self, gateway: NodeId) -> None:
        """Its requests ended with it."""
        for key in [key for key in self._untold if key[0] == gateway]:
            del self._untold[key]
        for model in self._models.values():
            model.ended(gateway, model.requests)

    def clear(self) -> None:
        self._models.clear()
        self._untold.clear()

    def _alone(self, model: _Model, rejected: Sequence[Rejection]) -> bool:
        """The list is the same one until something about the machines has changed."""
        if rejected is not model.rejected:
            model.rejected, model.alone = rejected, nobody_else(rejected)
        return model.alone

    def _owes(self, gateway: NodeId, name: str, requests: int) -> None:
        key = (gateway, name)
        self._untold[key] = min(self._untold.get(key, 0) + requests, REQUESTS_MAX)
        self._untold.move_to_end(key)
        if len(self._untold) > UNTOLD_MAX:
            self._untold.popitem(last=False)

    def _model(self, name: str) -> _Model:
        model = self._models[name] = _Model()
        if len(self._models) > self._settings.models_max:
            self._models.popitem(last=False)
        return model
