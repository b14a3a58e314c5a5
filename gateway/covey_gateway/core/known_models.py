"""Which models the pool offers now, folded over its machines."""

from __future__ import annotations

from dataclasses import dataclass

from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One model and the reachable machines on which it is ready. The context is the largest any of them takes."""

    model: str
    task: str
    max_context_tokens: int
    node_ids: tuple[NodeId, ...]


def known_models(view: PoolView) -> list[KnownModel]:
    """By name; only what could serve a request now."""
    found: dict[str, KnownModel] = {}
    for node_id, member in view.members.items():
        for load in member.load.models if member.reachable else ():
            if not load.ready:
                continue
            other = found.get(load.model)
            found[load.model] = KnownModel(
                load.model,
                load.task.value,
                max(load.max_context_tokens, other.max_context_tokens if other else 0),
                (*(other.node_ids if other else ()), node_id),
            )
    return [found[name] for name in sorted(found)]
