"""The last few users of each model: how each comes and goes, and what became of its last request.

Not here: what follows of it (keeping.py), what users hold (holdings.py).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

from covey_mesh.core.names import NodeId
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing

USERS_MAX = 8
"""Users remembered of each model, those with the newest assignments."""

NEWEST_PAUSE = 0.3
"""Share of the newest pause in a user's mean."""

TOGETHER_DECAY = 0.95
"""Of the most requests that a user had at machines at once, with each further one."""

SURELY = 0.5
"""Share of the time expected for an answer that it takes in any case."""


class Visitor:
    """One user of one model. `seen_at_s`: when it was known to have a request last; `left_at_s`: when one came or ended
    last; `pause_s`: from then to its next, mean (None: not known); `together`: most requests at machines at once, of
    late. Of its last: `machine`, `prompt_tokens` to compute, `answer_tokens` expected from `first_at_s` on."""

    __slots__ = (
        "answer_tokens", "first_at_s", "left_at_s", "machine", "pause_s", "prompt_tokens", "seen_at_s", "together",
    )  # fmt: skip

    def __init__(self, now_s: float) -> None:
        self.seen_at_s = self.left_at_s = now_s
        self.pause_s: float | None = None
        self.prompt_tokens = 0
        self.machine: Standing | None = None
        self.answer_tokens = 0
        self.first_at_s = 0.0
        self.together = 1.0

    def went(self, machine: Standing, now_s: float, prompt_tokens: int, prompt_s: float, answer_tokens: int) -> None:
        """To a machine that will compute its prompt after those that it was given before."""
        done_at_s = machine.prompts_done_at_s
        self.first_at_s = (done_at_s if done_at_s > now_s else now_s) + prompt_s
        self.machine, self.prompt_tokens, self.answer_tokens = machine, prompt_tokens, answer_tokens

    @property
    def node_id(self) -> NodeId | None:
        """The machine that its last request went to."""
        return None if self.machine is None else self.machine.candidate.machine.node_id

    def back_by_s(self, settings: SchedulerSettings) -> float:
        """When its next request should have come: who usually stays away for long is not awaited."""
        away_s = settings.returning_s if self.pause_s is None else 2.0 * self.pause_s
        return self.seen_at_s + (max(settings.returning_s, away_s) if away_s <= settings.returning_s_max else 0.0)

    @property
    def reads_until_s(self) -> float:
        """Until then at least the answer to its last request should come: at the best speed seen of the machine."""
        if self.machine is None:
            return -math.inf
        speeds = self.machine.load.speeds
        step_s = min([point.step_s for point in speeds.decode], default=self.machine.decode_s_per_token)
        return self.first_at_s + SURELY * self.answer_tokens * step_s

    @property
    def answered_by_s(self) -> float:
        """By then the answer to its last request should have come, although others' prompts hold it up."""
        step_s = 0.0 if self.machine is None else self.machine.decode_s_per_token
        return self.first_at_s + self.answer_tokens * step_s / SURELY


NOBODY: Mapping[str, Visitor] = {}


class Visitors:
    """Of all models."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._models: OrderedDict[str, OrderedDict[str, Visitor]] = OrderedDict()

    def came(self, model: str, user: str, together: int, now_s: float) -> Visitor:
        """A request of this user is given to a machine, the last of so many there."""
        users = self._models.get(model)
        if users is None:
            users = self._models[model] = OrderedDict()
            if len(self._models) > self._settings.models_max:
                self._models.popitem(last=False)
        visitor = users.get(user)
        if visitor is None:
            visitor = users[user] = Visitor(now_s)
            if len(users) > USERS_MAX:
                users.popitem(last=False)
            return visitor
        users.move_to_end(user)
        pause_s, before_s = now_s - visitor.left_at_s, visitor.pause_s
        visitor.seen_at_s = visitor.left_at_s = now_s
        if pause_s > self._settings.returning_s_max:
            # A new visit.
            visitor.pause_s = None
        else:
            visitor.pause_s = pause_s if before_s is None else before_s + NEWEST_PAUSE * (pause_s - before_s)
        most = TOGETHER_DECAY * visitor.together
        visitor.together = most if most > together else together
        return visitor

    def left(self, model: str, user: str, now_s: float) -> None:
        """A request of this user has ended."""
        users = self._models.get(model)
        visitor = None if users is None else users.get(user)
        if visitor is not None:
            visitor.seen_at_s = visitor.left_at_s = now_s

    def of(self, model: str) -> Mapping[str, Visitor]:
        """By user, the one with the newest assignment last."""
        return self._models.get(model, NOBODY)

    def clear(self) -> None:
        self._models.clear()
