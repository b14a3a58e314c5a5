"""What is known of a machine and of the pool: immutable values shared by every component.

Not here: how it was learned (membership.py, io/) and what follows from it (covey_scheduler).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.names import NodeId
from covey_mesh.core.speeds import UNMEASURED, ModelSpeeds


class EngineState(enum.Enum):
    """Where an engine is in its life; the transitions are in covey_node.core.lifecycle."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    WEDGED = "wedged"
    BACKING_OFF = "backing-off"
    STOPPING = "stopping"
    FAILED = "failed"


class Task(enum.Enum):
    """What a model is for."""

    GENERATE = "generate"
    EMBED = "embed"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver reports it. None where the driver cannot say."""

    index: int
    uuid: str
    name: str
    memory_total_bytes: int
    memory_free_bytes: int
    utilization_percent: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    foreign_processes: int = 0


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """One model on one machine: what it can take and what it is doing. Speeds are 0 where not yet measured.

    `marks`: the requests that it holds (marks.py), running and waiting; None: it does not tell, or this is a relayed
    view."""

    model: str
    state: EngineState
    engine: str
    task: Task
    max_context_tokens: int
    running_requests: int = 0
    waiting_requests: int = 0
    running_limit: int = 0
    waiting_limit: int = 0
    queued_tokens: int = 0
    kv_cache_tokens_total: int = 0
    kv_cache_tokens_free: int = 0
    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    detail: str = ""
    restarts: int = 0
    queued_prompt_tokens: int = 0
    speeds: ModelSpeeds = UNMEASURED
    prefix_cache_tokens: int = 0
    prefix_cache_evicted_tokens: int = 0
    marks: frozenset[int] | None = None

    @property
    def ready(self) -> bool:
        return self.state is EngineState.READY


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a machine is: changes rarely. Addresses are HOST:PORT, best first."""

    node_id: NodeId
    name: str
    version: str
    protocol: int
    incarnation: int
    link_addresses: tuple[str, ...] = ()
    gateway_addresses: tuple[str, ...] = ()
    cpu_name: str = ""
    cpu_count: int = 0
    memory_total_bytes: int = 0
    facts_version: int = 0
    data_port: int = 0


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """What a machine is doing: reported several times a second while it changes."""

    node_id: NodeId
    incarnation: int
    sequence: int
    gpus: tuple[Gpu, ...] = ()
    models: tuple[ModelLoad, ...] = ()
    draining: bool = False
    memory_free_bytes: int = 0

    def model(self, name: str) -> ModelLoad | None:
        return next((m for m in self.models if m.model == name), None)

    def newer_than(self, other: NodeLoad) -> bool:
        """True if this report replaces `other`: another incarnation, or a later report of the same one."""
        return self.incarnation != other.incarnation or self.sequence > other.sequence

    def same_work_as(self, other: NodeLoad) -> bool:
        """True if the two differ at most in what only people read: temperatures, power, bytes of memory."""
        return (self.incarnation, self.draining, self.models) == (other.incarnation, other.draining, other.models) and [
            gpu.foreign_processes for gpu in self.gpus
        ] == [gpu.foreign_processes for gpu in other.gpus]


@dataclass(frozen=True, slots=True)
class Member:
    """One machine of the pool as seen from here."""

    facts: NodeFacts
    load: NodeLoad
    reachable: bool
    round_trip_s: float = 0.0
    silent_for_s: float = 0.0

    @property
    def node_id(self) -> NodeId:
        return self.facts.node_id


@dataclass(frozen=True, slots=True)
class PoolView:
    """The pool as seen from one machine at one moment. `version` counts up with every change seen there."""

    self_id: NodeId
    version: int = 0
    leader: NodeId | None = None
    ballot: Ballot = NO_BALLOT
    members: Mapping[NodeId, Member] = field(default_factory=dict)

    def models(self) -> dict[str, list[NodeId]]:
        """Model name -> machines on which it is ready, in member order."""
        found: dict[str, list[NodeId]] = {}
        for node_id, member in self.members.items():
            for load in member.load.models:
                if load.ready and member.reachable:
                    found.setdefault(load.model, []).append(node_id)
        return found
