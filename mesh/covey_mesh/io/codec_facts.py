"""Wire form of what is known of machines: facts, loads, members. Unknown enum values count as absent.

Not here: messages that carry them (codec.py).
"""

from __future__ import annotations

from covey_mesh.core.facts import EngineState, Gpu, Member, ModelLoad, NodeFacts, NodeLoad, Task
from covey_mesh.core.marks import MARKS_MAX
from covey_mesh.core.speeds import UNMEASURED
from covey_mesh.io.codec_speeds import speeds_from_wire, speeds_to_wire
from covey_mesh.io.codec_values import (
    ADDRESSES_MAX,
    PeerProtocolError,
    bounded,
    clipped,
    node_id,
    number,
    text,
    texts,
)
from covey_mesh.wire.v1 import types_pb2 as wire

GPUS_MAX = 64
MODELS_MAX = 256
PORT_MAX = 65535

_STATE_TO_WIRE = {
    EngineState.STOPPED: wire.ENGINE_STATE_STOPPED,
    EngineState.STARTING: wire.ENGINE_STATE_STARTING,
    EngineState.READY: wire.ENGINE_STATE_READY,
    EngineState.BACKING_OFF: wire.ENGINE_STATE_BACKING_OFF,
    EngineState.STOPPING: wire.ENGINE_STATE_STOPPING,
    EngineState.FAILED: wire.ENGINE_STATE_FAILED,
    EngineState.WEDGED: wire.ENGINE_STATE_WEDGED,
}
_STATE_FROM_WIRE = {number: state for state, number in _STATE_TO_WIRE.items()}
_TASKS = {task.value: task for task in Task}


def facts_to_wire(facts: NodeFacts) -> wire.NodeFacts:
    return wire.NodeFacts(
        node_id=facts.node_id,
        name=facts.name,
        version=facts.version,
        protocol=facts.protocol,
        incarnation=facts.incarnation,
        link_addresses=facts.link_addresses,
        gateway_addresses=facts.gateway_addresses,
        cpu_name=facts.cpu_name,
        cpu_count=facts.cpu_count,
        memory_total_bytes=facts.memory_total_bytes,
        facts_version=facts.facts_version,
        data_port=facts.data_port,
    )


def facts_from_wire(message: wire.NodeFacts) -> NodeFacts:
    """Raises PeerProtocolError."""
    return NodeFacts(
        node_id=node_id(message.node_id),
        name=text(message.name, "a machine's name"),
        version=text(message.version, "a version"),
        protocol=message.protocol,
        incarnation=message.incarnation,
        link_addresses=texts(message.link_addresses, ADDRESSES_MAX, "link addresses"),
        gateway_addresses=texts(message.gateway_addresses, ADDRESSES_MAX, "gateway addresses"),
        cpu_name=text(message.cpu_name, "a CPU's name"),
        cpu_count=message.cpu_count,
        memory_total_bytes=message.memory_total_bytes,
        facts_version=message.facts_version,
        data_port=_port(message.data_port),
    )


def _port(value: int) -> int:
    """Raises PeerProtocolError."""
    if value > PORT_MAX:
        raise PeerProtocolError(f"a port {value}")
    return value


def gpu_to_wire(gpu: Gpu) -> wire.Gpu:
    message = wire.Gpu(
        index=gpu.index,
        uuid=gpu.uuid,
        name=gpu.name,
        memory_total_bytes=gpu.memory_total_bytes,
        memory_free_bytes=gpu.memory_free_bytes,
        foreign_processes=gpu.foreign_processes,
    )
    if gpu.utilization_percent is not None:
        message.utilization_percent = gpu.utilization_percent
    if gpu.power_w is not None:
        message.power_w = gpu.power_w
    if gpu.temperature_c is not None:
        message.temperature_c = gpu.temperature_c
    return message


def gpu_from_wire(message: wire.Gpu) -> Gpu:
    """Raises PeerProtocolError."""
    return Gpu(
        index=message.index,
        uuid=text(message.uuid, "a GPU's uuid"),
        name=text(message.name, "a GPU's name"),
        memory_total_bytes=message.memory_total_bytes,
        memory_free_bytes=message.memory_free_bytes,
        utilization_percent=message.utilization_percent if message.HasField("utilization_percent") else None,
        power_w=number(message.power_w, "a GPU's power") if message.HasField("power_w") else None,
        temperature_c=message.temperature_c if message.HasField("temperature_c") else None,
        foreign_processes=message.foreign_processes,
    )


def model_load_to_wire(load: ModelLoad) -> wire.ModelLoad:
    return wire.ModelLoad(
        model=load.model,
        state=_STATE_TO_WIRE[load.state],
        engine=load.engine,
        task=load.task.value,
        max_context_tokens=load.max_context_tokens,
        running_requests=load.running_requests,
        waiting_requests=load.waiting_requests,
        running_limit=load.running_limit,
        waiting_limit=load.waiting_limit,
        queued_tokens=load.queued_tokens,
        kv_cache_tokens_total=load.kv_cache_tokens_total,
        kv_cache_tokens_free=load.kv_cache_tokens_free,
        prefill_tokens_per_s=load.prefill_tokens_per_s,
        decode_tokens_per_s=load.decode_tokens_per_s,
        detail=clipped(load.detail),
        restarts=load.restarts,
        queued_prompt_tokens=load.queued_prompt_tokens,
        speeds=None if load.speeds is UNMEASURED else speeds_to_wire(load.speeds),
        prefix_cache_tokens=load.prefix_cache_tokens,
        prefix_cache_evicted_tokens=load.prefix_cache_evicted_tokens,
    )


def model_load_from_wire(message: wire.ModelLoad) -> ModelLoad | None:
    """None for a task that this build does not know; an unknown state counts as stopped: either way nothing is sent
    there. Raises PeerProtocolError."""
    task = _TASKS.get(message.task)
    if task is None:
        return None
    return ModelLoad(
        model=text(message.model, "a model's name"),
        state=_STATE_FROM_WIRE.get(message.state, EngineState.STOPPED),
        engine=text(message.engine, "an engine's name"),
        task=task,
        max_context_tokens=message.max_context_tokens,
        running_requests=message.running_requests,
        waiting_requests=message.waiting_requests,
        running_limit=message.running_limit,
        waiting_limit=message.waiting_limit,
        queued_tokens=message.queued_tokens,
        kv_cache_tokens_total=message.kv_cache_tokens_total,
        kv_cache_tokens_free=message.kv_cache_tokens_free,
        prefill_tokens_per_s=number(message.prefill_tokens_per_s, "a prefill speed"),
        decode_tokens_per_s=number(message.decode_tokens_per_s, "a decode speed"),
        detail=text(message.detail, "a model's detail"),
        restarts=message.restarts,
        queued_prompt_tokens=message.queued_prompt_tokens,
        speeds=speeds_from_wire(message.speeds) if message.HasField("speeds") else UNMEASURED,
        prefix_cache_tokens=message.prefix_cache_tokens,
        prefix_cache_evicted_tokens=message.prefix_cache_evicted_tokens,
        marks=_marks_from_wire(message.marks) if message.HasField("marks") else None,
    )


def _marks_from_wire(message: wire.RequestMarks) -> frozenset[int] | None:
    """Raises PeerProtocolError."""
    return frozenset(bounded(message.marks, MARKS_MAX, "marks of requests"))


def own_load_to_wire(load: NodeLoad) -> wire.NodeLoad:
    """A machine's own report: which requests it holds is told to those whom it tells itself, and not passed on."""
    message = load_to_wire(load)
    for told, model in zip(message.models, load.models, strict=True):
        if model.marks is not None and len(model.marks) <= MARKS_MAX:
            told.marks.marks.extend(model.marks)
            told.marks.SetInParent()
    return message


def load_to_wire(load: NodeLoad) -> wire.NodeLoad:
    return wire.NodeLoad(
        node_id=load.node_id,
        incarnation=load.incarnation,
        sequence=load.sequence,
        gpus=[gpu_to_wire(gpu) for gpu in load.gpus],
        models=[model_load_to_wire(model) for model in load.models],
        draining=load.draining,
        memory_free_bytes=load.memory_free_bytes,
    )


def load_from_wire(message: wire.NodeLoad) -> NodeLoad:
    """Raises PeerProtocolError."""
    models = (model_load_from_wire(model) for model in bounded(message.models, MODELS_MAX, "models"))
    return NodeLoad(
        node_id=node_id(message.node_id),
        incarnation=message.incarnation,
        sequence=message.sequence,
        gpus=tuple(gpu_from_wire(gpu) for gpu in bounded(message.gpus, GPUS_MAX, "GPUs")),
        models=tuple(model for model in models if model is not None),
        draining=message.draining,
        memory_free_bytes=message.memory_free_bytes,
    )


def member_to_wire(member: Member) -> wire.Member:
    return wire.Member(
        facts=facts_to_wire(member.facts),
        load=load_to_wire(member.load),
        reachable=member.reachable,
        round_trip_ms=member.round_trip_s * 1000,
        silent_for_s=member.silent_for_s,
    )


def member_from_wire(message: wire.Member) -> Member:
    """Raises PeerProtocolError."""
    facts, load = facts_from_wire(message.facts), load_from_wire(message.load)
    if facts.node_id != load.node_id:
        raise PeerProtocolError("a member's facts and load speak of different machines")
    return Member(
        facts=facts,
        load=load,
        reachable=message.reachable,
        round_trip_s=number(message.round_trip_ms, "a round trip") / 1000,
        silent_for_s=number(message.silent_for_s, "a silence"),
    )
