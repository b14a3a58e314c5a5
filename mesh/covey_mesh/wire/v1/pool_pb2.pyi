from covey_mesh.wire.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetPoolRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPoolResponse(_message.Message):
    __slots__ = ("pool_id", "pool_name", "node_id", "leader_node_id", "ballot", "view_version", "members", "models", "queued_requests")
    POOL_ID_FIELD_NUMBER: _ClassVar[int]
    POOL_NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    VIEW_VERSION_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    pool_id: str
    pool_name: str
    node_id: str
    leader_node_id: str
    ballot: _types_pb2.Ballot
    view_version: int
    members: _containers.RepeatedCompositeFieldContainer[_types_pb2.Member]
    models: _containers.RepeatedCompositeFieldContainer[PoolModel]
    queued_requests: int
    def __init__(self, pool_id: _Optional[str] = ..., pool_name: _Optional[str] = ..., node_id: _Optional[str] = ..., leader_node_id: _Optional[str] = ..., ballot: _Optional[_Union[_types_pb2.Ballot, _Mapping]] = ..., view_version: _Optional[int] = ..., members: _Optional[_Iterable[_Union[_types_pb2.Member, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[PoolModel, _Mapping]]] = ..., queued_requests: _Optional[int] = ...) -> None: ...

class PoolModel(_message.Message):
    __slots__ = ("model", "task", "max_context_tokens", "node_ids")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NODE_IDS_FIELD_NUMBER: _ClassVar[int]
    model: str
    task: str
    max_context_tokens: int
    node_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[str] = ..., task: _Optional[str] = ..., max_context_tokens: _Optional[int] = ..., node_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ExplainRequestRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class ExplainRequestResponse(_message.Message):
    __slots__ = ("request_id", "gateway_node_id", "decisions", "attempts", "status", "path", "model", "streaming", "prompt_tokens", "max_output_tokens", "arrived_at_unix_s", "error", "first_byte_s", "total_s", "parts", "part_of")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STREAMING_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_AT_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FIRST_BYTE_S_FIELD_NUMBER: _ClassVar[int]
    TOTAL_S_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    PART_OF_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    gateway_node_id: str
    decisions: _containers.RepeatedCompositeFieldContainer[_types_pb2.Decision]
    attempts: _containers.RepeatedCompositeFieldContainer[AttemptRecord]
    status: int
    path: str
    model: str
    streaming: bool
    prompt_tokens: int
    max_output_tokens: int
    arrived_at_unix_s: float
    error: str
    first_byte_s: float
    total_s: float
    parts: _containers.RepeatedCompositeFieldContainer[PartRecord]
    part_of: str
    def __init__(self, request_id: _Optional[str] = ..., gateway_node_id: _Optional[str] = ..., decisions: _Optional[_Iterable[_Union[_types_pb2.Decision, _Mapping]]] = ..., attempts: _Optional[_Iterable[_Union[AttemptRecord, _Mapping]]] = ..., status: _Optional[int] = ..., path: _Optional[str] = ..., model: _Optional[str] = ..., streaming: _Optional[bool] = ..., prompt_tokens: _Optional[int] = ..., max_output_tokens: _Optional[int] = ..., arrived_at_unix_s: _Optional[float] = ..., error: _Optional[str] = ..., first_byte_s: _Optional[float] = ..., total_s: _Optional[float] = ..., parts: _Optional[_Iterable[_Union[PartRecord, _Mapping]]] = ..., part_of: _Optional[str] = ...) -> None: ...

class PartRecord(_message.Message):
    __slots__ = ("request_id", "begin", "end", "node_id", "status", "error", "total_s")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TOTAL_S_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    begin: int
    end: int
    node_id: str
    status: int
    error: str
    total_s: float
    def __init__(self, request_id: _Optional[str] = ..., begin: _Optional[int] = ..., end: _Optional[int] = ..., node_id: _Optional[str] = ..., status: _Optional[int] = ..., error: _Optional[str] = ..., total_s: _Optional[float] = ...) -> None: ...

class AttemptRecord(_message.Message):
    __slots__ = ("attempt", "node_id", "outcome", "first_byte_s", "total_s")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FIRST_BYTE_S_FIELD_NUMBER: _ClassVar[int]
    TOTAL_S_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    node_id: str
    outcome: str
    first_byte_s: float
    total_s: float
    def __init__(self, attempt: _Optional[int] = ..., node_id: _Optional[str] = ..., outcome: _Optional[str] = ..., first_byte_s: _Optional[float] = ..., total_s: _Optional[float] = ...) -> None: ...
