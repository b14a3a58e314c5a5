from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EngineState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENGINE_STATE_UNSPECIFIED: _ClassVar[EngineState]
    ENGINE_STATE_STOPPED: _ClassVar[EngineState]
    ENGINE_STATE_STARTING: _ClassVar[EngineState]
    ENGINE_STATE_READY: _ClassVar[EngineState]
    ENGINE_STATE_BACKING_OFF: _ClassVar[EngineState]
    ENGINE_STATE_STOPPING: _ClassVar[EngineState]
    ENGINE_STATE_FAILED: _ClassVar[EngineState]
    ENGINE_STATE_WEDGED: _ClassVar[EngineState]

class FailureCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_CODE_UNSPECIFIED: _ClassVar[FailureCode]
    FAILURE_CODE_NO_MODEL: _ClassVar[FailureCode]
    FAILURE_CODE_RESOURCE_EXHAUSTED: _ClassVar[FailureCode]
    FAILURE_CODE_DRAINING: _ClassVar[FailureCode]
    FAILURE_CODE_ENGINE_FAILED: _ClassVar[FailureCode]
    FAILURE_CODE_LINK_LOST: _ClassVar[FailureCode]
    FAILURE_CODE_CANCELLED: _ClassVar[FailureCode]
    FAILURE_CODE_STALE_ATTEMPT: _ClassVar[FailureCode]
    FAILURE_CODE_DEADLINE_EXCEEDED: _ClassVar[FailureCode]
    FAILURE_CODE_INTERNAL: _ClassVar[FailureCode]
    FAILURE_CODE_STALLED: _ClassVar[FailureCode]
ENGINE_STATE_UNSPECIFIED: EngineState
ENGINE_STATE_STOPPED: EngineState
ENGINE_STATE_STARTING: EngineState
ENGINE_STATE_READY: EngineState
ENGINE_STATE_BACKING_OFF: EngineState
ENGINE_STATE_STOPPING: EngineState
ENGINE_STATE_FAILED: EngineState
ENGINE_STATE_WEDGED: EngineState
FAILURE_CODE_UNSPECIFIED: FailureCode
FAILURE_CODE_NO_MODEL: FailureCode
FAILURE_CODE_RESOURCE_EXHAUSTED: FailureCode
FAILURE_CODE_DRAINING: FailureCode
FAILURE_CODE_ENGINE_FAILED: FailureCode
FAILURE_CODE_LINK_LOST: FailureCode
FAILURE_CODE_CANCELLED: FailureCode
FAILURE_CODE_STALE_ATTEMPT: FailureCode
FAILURE_CODE_DEADLINE_EXCEEDED: FailureCode
FAILURE_CODE_INTERNAL: FailureCode
FAILURE_CODE_STALLED: FailureCode

class Ballot(_message.Message):
    __slots__ = ("counter", "node_id")
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    counter: int
    node_id: str
    def __init__(self, counter: _Optional[int] = ..., node_id: _Optional[str] = ...) -> None: ...

class Gpu(_message.Message):
    __slots__ = ("index", "uuid", "name", "memory_total_bytes", "memory_free_bytes", "utilization_percent", "power_w", "temperature_c", "foreign_processes")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_PERCENT_FIELD_NUMBER: _ClassVar[int]
    POWER_W_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_PROCESSES_FIELD_NUMBER: _ClassVar[int]
    index: int
    uuid: str
    name: str
    memory_total_bytes: int
    memory_free_bytes: int
    utilization_percent: int
    power_w: float
    temperature_c: float
    foreign_processes: int
    def __init__(self, index: _Optional[int] = ..., uuid: _Optional[str] = ..., name: _Optional[str] = ..., memory_total_bytes: _Optional[int] = ..., memory_free_bytes: _Optional[int] = ..., utilization_percent: _Optional[int] = ..., power_w: _Optional[float] = ..., temperature_c: _Optional[float] = ..., foreign_processes: _Optional[int] = ...) -> None: ...

class ModelLoad(_message.Message):
    __slots__ = ("model", "state", "engine", "task", "max_context_tokens", "running_requests", "waiting_requests", "running_limit", "waiting_limit", "queued_tokens", "kv_cache_tokens_total", "kv_cache_tokens_free", "prefill_tokens_per_s", "decode_tokens_per_s", "detail", "restarts", "queued_prompt_tokens", "speeds", "prefix_cache_tokens", "prefix_cache_evicted_tokens", "marks")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_LIMIT_FIELD_NUMBER: _ClassVar[int]
    WAITING_LIMIT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_TOKENS_FREE_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SPEEDS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_CACHE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_CACHE_EVICTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MARKS_FIELD_NUMBER: _ClassVar[int]
    model: str
    state: EngineState
    engine: str
    task: str
    max_context_tokens: int
    running_requests: int
    waiting_requests: int
    running_limit: int
    waiting_limit: int
    queued_tokens: int
    kv_cache_tokens_total: int
    kv_cache_tokens_free: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    detail: str
    restarts: int
    queued_prompt_tokens: int
    speeds: ModelSpeeds
    prefix_cache_tokens: int
    prefix_cache_evicted_tokens: int
    marks: RequestMarks
    def __init__(self, model: _Optional[str] = ..., state: _Optional[_Union[EngineState, str]] = ..., engine: _Optional[str] = ..., task: _Optional[str] = ..., max_context_tokens: _Optional[int] = ..., running_requests: _Optional[int] = ..., waiting_requests: _Optional[int] = ..., running_limit: _Optional[int] = ..., waiting_limit: _Optional[int] = ..., queued_tokens: _Optional[int] = ..., kv_cache_tokens_total: _Optional[int] = ..., kv_cache_tokens_free: _Optional[int] = ..., prefill_tokens_per_s: _Optional[float] = ..., decode_tokens_per_s: _Optional[float] = ..., detail: _Optional[str] = ..., restarts: _Optional[int] = ..., queued_prompt_tokens: _Optional[int] = ..., speeds: _Optional[_Union[ModelSpeeds, _Mapping]] = ..., prefix_cache_tokens: _Optional[int] = ..., prefix_cache_evicted_tokens: _Optional[int] = ..., marks: _Optional[_Union[RequestMarks, _Mapping]] = ...) -> None: ...

class RequestMarks(_message.Message):
    __slots__ = ("marks",)
    MARKS_FIELD_NUMBER: _ClassVar[int]
    marks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, marks: _Optional[_Iterable[int]] = ...) -> None: ...

class ModelSpeeds(_message.Message):
    __slots__ = ("prefill", "decode", "batch_slowdown", "load_s", "source", "confidence", "observations", "spread", "measured_unix_s", "prefill_factor", "decode_factor")
    class Prefill(_message.Message):
        __slots__ = ("prompt_tokens", "tokens_per_s")
        PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
        TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
        prompt_tokens: int
        tokens_per_s: float
        def __init__(self, prompt_tokens: _Optional[int] = ..., tokens_per_s: _Optional[float] = ...) -> None: ...
    class Decode(_message.Message):
        __slots__ = ("batch", "context_tokens", "step_s")
        BATCH_FIELD_NUMBER: _ClassVar[int]
        CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
        STEP_S_FIELD_NUMBER: _ClassVar[int]
        batch: int
        context_tokens: int
        step_s: float
        def __init__(self, batch: _Optional[int] = ..., context_tokens: _Optional[int] = ..., step_s: _Optional[float] = ...) -> None: ...
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    BATCH_SLOWDOWN_FIELD_NUMBER: _ClassVar[int]
    LOAD_S_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    MEASURED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FACTOR_FIELD_NUMBER: _ClassVar[int]
    DECODE_FACTOR_FIELD_NUMBER: _ClassVar[int]
    prefill: _containers.RepeatedCompositeFieldContainer[ModelSpeeds.Prefill]
    decode: _containers.RepeatedCompositeFieldContainer[ModelSpeeds.Decode]
    batch_slowdown: float
    load_s: float
    source: str
    confidence: float
    observations: int
    spread: float
    measured_unix_s: float
    prefill_factor: float
    decode_factor: float
    def __init__(self, prefill: _Optional[_Iterable[_Union[ModelSpeeds.Prefill, _Mapping]]] = ..., decode: _Optional[_Iterable[_Union[ModelSpeeds.Decode, _Mapping]]] = ..., batch_slowdown: _Optional[float] = ..., load_s: _Optional[float] = ..., source: _Optional[str] = ..., confidence: _Optional[float] = ..., observations: _Optional[int] = ..., spread: _Optional[float] = ..., measured_unix_s: _Optional[float] = ..., prefill_factor: _Optional[float] = ..., decode_factor: _Optional[float] = ...) -> None: ...

class NodeFacts(_message.Message):
    __slots__ = ("node_id", "name", "version", "protocol", "incarnation", "link_addresses", "gateway_addresses", "cpu_name", "cpu_count", "memory_total_bytes", "facts_version", "data_port")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LINK_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    CPU_NAME_FIELD_NUMBER: _ClassVar[int]
    CPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FACTS_VERSION_FIELD_NUMBER: _ClassVar[int]
    DATA_PORT_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    version: str
    protocol: int
    incarnation: int
    link_addresses: _containers.RepeatedScalarFieldContainer[str]
    gateway_addresses: _containers.RepeatedScalarFieldContainer[str]
    cpu_name: str
    cpu_count: int
    memory_total_bytes: int
    facts_version: int
    data_port: int
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., protocol: _Optional[int] = ..., incarnation: _Optional[int] = ..., link_addresses: _Optional[_Iterable[str]] = ..., gateway_addresses: _Optional[_Iterable[str]] = ..., cpu_name: _Optional[str] = ..., cpu_count: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., facts_version: _Optional[int] = ..., data_port: _Optional[int] = ...) -> None: ...

class NodeLoad(_message.Message):
    __slots__ = ("node_id", "incarnation", "sequence", "gpus", "models", "draining", "memory_free_bytes")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    incarnation: int
    sequence: int
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    models: _containers.RepeatedCompositeFieldContainer[ModelLoad]
    draining: bool
    memory_free_bytes: int
    def __init__(self, node_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., sequence: _Optional[int] = ..., gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[ModelLoad, _Mapping]]] = ..., draining: _Optional[bool] = ..., memory_free_bytes: _Optional[int] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("facts", "load", "reachable", "round_trip_ms", "silent_for_s")
    FACTS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_MS_FIELD_NUMBER: _ClassVar[int]
    SILENT_FOR_S_FIELD_NUMBER: _ClassVar[int]
    facts: NodeFacts
    load: NodeLoad
    reachable: bool
    round_trip_ms: float
    silent_for_s: float
    def __init__(self, facts: _Optional[_Union[NodeFacts, _Mapping]] = ..., load: _Optional[_Union[NodeLoad, _Mapping]] = ..., reachable: _Optional[bool] = ..., round_trip_ms: _Optional[float] = ..., silent_for_s: _Optional[float] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: FailureCode
    message: str
    retry_after_ms: int
    def __init__(self, code: _Optional[_Union[FailureCode, str]] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class CandidateVerdict(_message.Message):
    __slots__ = ("node_id", "rejected_because", "first_token_s", "last_token_s", "terms_s")
    class TermsSEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    REJECTED_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_S_FIELD_NUMBER: _ClassVar[int]
    LAST_TOKEN_S_FIELD_NUMBER: _ClassVar[int]
    TERMS_S_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    rejected_because: str
    first_token_s: float
    last_token_s: float
    terms_s: _containers.ScalarMap[str, float]
    def __init__(self, node_id: _Optional[str] = ..., rejected_because: _Optional[str] = ..., first_token_s: _Optional[float] = ..., last_token_s: _Optional[float] = ..., terms_s: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("request_id", "attempt", "model", "decided_at_unix_s", "decided_by", "decider_node_id", "ballot", "view_version", "outcome", "chosen_node_id", "policy", "queued_for_s", "candidates", "turned_away")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    DECIDED_BY_FIELD_NUMBER: _ClassVar[int]
    DECIDER_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    VIEW_VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FOR_S_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TURNED_AWAY_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    model: str
    decided_at_unix_s: float
    decided_by: str
    decider_node_id: str
    ballot: Ballot
    view_version: int
    outcome: str
    chosen_node_id: str
    policy: str
    queued_for_s: float
    candidates: _containers.RepeatedCompositeFieldContainer[CandidateVerdict]
    turned_away: str
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., model: _Optional[str] = ..., decided_at_unix_s: _Optional[float] = ..., decided_by: _Optional[str] = ..., decider_node_id: _Optional[str] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ..., view_version: _Optional[int] = ..., outcome: _Optional[str] = ..., chosen_node_id: _Optional[str] = ..., policy: _Optional[str] = ..., queued_for_s: _Optional[float] = ..., candidates: _Optional[_Iterable[_Union[CandidateVerdict, _Mapping]]] = ..., turned_away: _Optional[str] = ...) -> None: ...
