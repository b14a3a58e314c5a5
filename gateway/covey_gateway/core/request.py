"""The life of one request, from its arrival to its last byte: the gateway owns it, machines only serve attempts.

Per attempt the leader is asked where. Only a missing acknowledgement, a lost link or lost leadership lets the gateway
decide alone. Until the first byte of the body went to the client, whatever a machine does wrong is mended elsewhere,
within the bounds of RequestSettings; after it a stream is continued elsewhere where that is sound (continuation.py),
and else ends in one clean error.

    NEW -> ASKING -> QUEUED -> OPENING -> RELAYING -> DONE
             |  ^       |        |          |  (a machine failed: ask again, without it; for the rest, if RELAYING)
             v  |       v        v          v
          DECIDING <-> BACKING_OFF (nobody can take it now)

The moves are in request_placing.py (where), request_continuing.py (how a broken stream goes on) and
request_serving.py (what came back); here is only the table.
Not here: sockets, clocks, the choice itself (covey_scheduler), error texts (errors.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from covey_gateway.core import request_events as ev
from covey_gateway.core.request_placing import QUEUED_REMINDER_S
from covey_gateway.core.request_serving import Serving
from covey_gateway.core.request_state import Phase

__all__ = ["QUEUED_REMINDER_S", "TRANSITIONS", "Phase", "RequestMachine"]


class RequestMachine(Serving):
    """`step` takes an event and returns effects; `wake_at_s` is when the next Tick is due (None: never).

    `relay` is the one shortcut: in RELAYING, bytes may be passed through it instead of an UpstreamData event.
    """

    def step(self, now_s: float, event: ev.Event) -> list[ev.Effect]:
        """Raises AssertionError for an event that cannot happen in this phase: a bug of the caller."""
        attempt = getattr(event, "attempt", None)
        if attempt is not None and attempt != self.attempt:
            return []
        handler = TRANSITIONS.get((self.phase, type(event)))
        assert handler is not None, f"{type(event).__name__} in phase {self.phase.value}"
        effects = handler(self, now_s, event)
        self.wake_at_s = None if self.phase is Phase.DONE else self._due_at_s()
        return effects

    def _due_at_s(self) -> float | None:
        due_s, deadline_s = self._due_s, self.facts.deadline_at_s
        if due_s is None or deadline_s is None:
            return deadline_s if due_s is None else due_s
        return min(due_s, deadline_s)

    def abandon(self) -> None:
        """After a bug of ours: the request ends here, whatever its phase."""
        self._drop_held()
        self.status, self.broken = 500, True
        self._enter(Phase.DONE, None)


Handler = Callable[..., list[ev.Effect]]
Row = dict[type, Handler]


def _table() -> Mapping[tuple[Phase, type], Handler]:
    m = RequestMachine
    waiting: Row = {
        ev.Assigned: m._assigned,
        ev.Queued: m._queued,
        ev.NoCandidate: m._no_candidate,
        ev.LeaderChanged: m._leader_changed,
        ev.LeaderUnreachable: m._leader_unreachable,
        ev.LinkedAgain: m._linked_again,
        ev.ClientGone: m._gone_waiting,
        ev.YourTurn: m._ignore,
    }
    deaf: Row = {
        # Duplicated answers to the attempt that runs.
        ev.Assigned: m._ignore,
        ev.Queued: m._ignore,
        ev.NoCandidate: m._ignore,
        ev.LeaderUnreachable: m._ignore,
        ev.LeaderChanged: m._leader_noted,
        ev.LinkedAgain: m._linked_again,
        ev.YourTurn: m._ignore,
    }
    serving: Row = {
        **deaf,
        ev.LeaderChanged: m._leader_told,
        ev.Tick: m._serving_tick,
        ev.ClientGone: m._gone_serving,
    }
    over: Row = {
        **deaf,
        ev.UpstreamHead: m._ignore,
        ev.UpstreamData: m._ignore,
        ev.EngineFault: m._ignore,
        ev.UpstreamEnd: m._ignore,
        ev.Counted: m._ignore,
    }
    rows: dict[Phase, Row] = {
        Phase.NEW: {
            ev.Started: m._started,
            ev.Granted: m._granted,
            ev.ClientGone: m._gone_waiting,
            ev.LeaderChanged: m._leader_noted,
            ev.LeaderUnreachable: m._ignore,
            ev.LinkedAgain: m._ignore,
            ev.YourTurn: m._ignore,
        },
        Phase.ASKING: {**waiting, ev.Tick: m._asking_tick},
        Phase.QUEUED: {**waiting, ev.Tick: m._queued_tick},
        Phase.DECIDING: {ev.Assigned: m._assigned, ev.NoCandidate: m._no_candidate},
        Phase.BACKING_OFF: {
            **over,
            ev.LeaderChanged: m._leader_found,
            ev.LinkedAgain: m._linked_again_while_waiting,
            ev.YourTurn: m._my_turn,
            ev.Tick: m._backing_off_tick,
            ev.ClientGone: m._gone_waiting,
        },
        Phase.OPENING: {
            **serving,
            ev.Counted: m._counted,
            ev.UpstreamHead: m._head,
            ev.UpstreamData: m._first_data,
            ev.UpstreamEnd: m._ended_before_first,
        },
        Phase.RELAYING: {
            **serving,
            ev.UpstreamHead: m._ignore,
            ev.UpstreamData: m._data,
            ev.EngineFault: m._fault,
            ev.UpstreamEnd: m._ended,
        },
        Phase.DONE: {**over, ev.ClientGone: m._ignore, ev.Tick: m._ignore},
    }
    return MappingProxyType({(phase, event): handler for phase, row in rows.items() for event, handler in row.items()})


TRANSITIONS = _table()
"""(phase, event) -> handler. Everything not listed cannot happen."""
