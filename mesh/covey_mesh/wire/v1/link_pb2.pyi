from covey_mesh.wire.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Batch(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("hello", "heartbeat", "election", "peers", "load", "view", "facts", "goodbye", "open", "cancel", "credit", "head", "data", "end", "body", "moved", "chunks", "ask", "answer", "attempt", "granted_work", "query", "query_reply", "pool_change", "relayed", "observed", "listening", "drain")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ELECTION_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    GRANTED_WORK_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    QUERY_REPLY_FIELD_NUMBER: _ClassVar[int]
    POOL_CHANGE_FIELD_NUMBER: _ClassVar[int]
    RELAYED_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_FIELD_NUMBER: _ClassVar[int]
    LISTENING_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    election: ElectionMessage
    peers: PeerList
    load: LoadReport
    view: ViewReport
    facts: _types_pb2.NodeFacts
    goodbye: Goodbye
    open: RequestOpen
    cancel: RequestCancel
    credit: RequestCredit
    head: ResponseHead
    data: ResponseData
    end: ResponseEnd
    body: RequestBody
    moved: Moved
    chunks: ResponseChunks
    ask: Ask
    answer: Answer
    attempt: AttemptReport
    granted_work: GrantedWork
    query: Query
    query_reply: QueryReply
    pool_change: PoolChange
    relayed: Relayed
    observed: Observed
    listening: Listening
    drain: Drain
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., election: _Optional[_Union[ElectionMessage, _Mapping]] = ..., peers: _Optional[_Union[PeerList, _Mapping]] = ..., load: _Optional[_Union[LoadReport, _Mapping]] = ..., view: _Optional[_Union[ViewReport, _Mapping]] = ..., facts: _Optional[_Union[_types_pb2.NodeFacts, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., open: _Optional[_Union[RequestOpen, _Mapping]] = ..., cancel: _Optional[_Union[RequestCancel, _Mapping]] = ..., credit: _Optional[_Union[RequestCredit, _Mapping]] = ..., head: _Optional[_Union[ResponseHead, _Mapping]] = ..., data: _Optional[_Union[ResponseData, _Mapping]] = ..., end: _Optional[_Union[ResponseEnd, _Mapping]] = ..., body: _Optional[_Union[RequestBody, _Mapping]] = ..., moved: _Optional[_Union[Moved, _Mapping]] = ..., chunks: _Optional[_Union[ResponseChunks, _Mapping]] = ..., ask: _Optional[_Union[Ask, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., attempt: _Optional[_Union[AttemptReport, _Mapping]] = ..., granted_work: _Optional[_Union[GrantedWork, _Mapping]] = ..., query: _Optional[_Union[Query, _Mapping]] = ..., query_reply: _Optional[_Union[QueryReply, _Mapping]] = ..., pool_change: _Optional[_Union[PoolChange, _Mapping]] = ..., relayed: _Optional[_Union[Relayed, _Mapping]] = ..., observed: _Optional[_Union[Observed, _Mapping]] = ..., listening: _Optional[_Union[Listening, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("pool_id", "facts", "protocol_min", "protocol_max", "data_ticket")
    POOL_ID_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MIN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MAX_FIELD_NUMBER: _ClassVar[int]
    DATA_TICKET_FIELD_NUMBER: _ClassVar[int]
    pool_id: str
    facts: _types_pb2.NodeFacts
    protocol_min: int
    protocol_max: int
    data_ticket: bytes
    def __init__(self, pool_id: _Optional[str] = ..., facts: _Optional[_Union[_types_pb2.NodeFacts, _Mapping]] = ..., protocol_min: _Optional[int] = ..., protocol_max: _Optional[int] = ..., data_ticket: _Optional[bytes] = ...) -> None: ...

class Moved(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("token", "echo")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    token: int
    echo: int
    def __init__(self, token: _Optional[int] = ..., echo: _Optional[int] = ...) -> None: ...

class ElectionMessage(_message.Message):
    __slots__ = ("pre_vote_request", "pre_vote_reply", "grant_request", "grant_reply", "lease_released")
    PRE_VOTE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTE_REPLY_FIELD_NUMBER: _ClassVar[int]
    GRANT_REQUEST_FIELD_NUMBER: _ClassVar[int]
    GRANT_REPLY_FIELD_NUMBER: _ClassVar[int]
    LEASE_RELEASED_FIELD_NUMBER: _ClassVar[int]
    pre_vote_request: PreVoteRequest
    pre_vote_reply: PreVoteReply
    grant_request: GrantRequest
    grant_reply: GrantReply
    lease_released: LeaseReleased
    def __init__(self, pre_vote_request: _Optional[_Union[PreVoteRequest, _Mapping]] = ..., pre_vote_reply: _Optional[_Union[PreVoteReply, _Mapping]] = ..., grant_request: _Optional[_Union[GrantRequest, _Mapping]] = ..., grant_reply: _Optional[_Union[GrantReply, _Mapping]] = ..., lease_released: _Optional[_Union[LeaseReleased, _Mapping]] = ...) -> None: ...

class PreVoteRequest(_message.Message):
    __slots__ = ("ballot", "round")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ballot: _types_pb2.Ballot
    round: int
    def __init__(self, ballot: _Optional[_Union[_types_pb2.Ballot, _Mapping]] = ..., round: _Optional[int] = ...) -> None: ...

class PreVoteReply(_message.Message):
    __slots__ = ("ballot", "round", "willing", "promised", "granted")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    WILLING_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    ballot: _types_pb2.Ballot
    round: int
    willing: bool
    promised: _types_pb2.Ballot
    granted: _types_pb2.Ballot
    def __init__(self, ballot: _Optional[_Union[_types_pb2.Ballot, _Mapping]] = ..., round: _Optional[int] = ..., willing: _Optional[bool] = ..., promised: _Optional[_Union[_types_pb2.Ballot, _Mapping]] = ..., granted: _Optional[_Union[_types_pb2.Ballot, _Mapping]] = ...) -> None: ...

class GrantRequest(_message.Message):
    __slots__ = ("ballot", "round", "lease_ms", "grants_held")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    GRANTS_HELD_FIELD_NUMBER: _ClassVar[int]
    ballot: _types_pb2.Ballot
    round: int
    lease_ms: int
    grants_held: int
    def __init__(self, ballot: _Optional[_Union[_types_pb2.Ballot, _Mapping]] = ..., round: _Optional[int] = ..., lease_ms: _Optional[int] = ..., grants_held: _Optional[int] = ...) -> None: ...

class GrantReply(_message.Message):
    __slots__ = ("ballot", "round", "granted", "promised", "reason")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ballot: _types_pb2.Ballot
    round: int
    granted: bool
    promised: _types_pb2.Ballot
    reason: str
    def __init__(self, ballot: _Optional[_Union[_types_pb2.Ballot, _Mapping]] = ..., round: _Optional[int] = ..., granted: _Optional[bool] = ..., promised: _Optional[_Union[_types_pb2.Ballot, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class LeaseReleased(_message.Message):
    __slots__ = ("ballot",)
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    ballot: _types_pb2.Ballot
    def __init__(self, ballot: _Optional[_Union[_types_pb2.Ballot, _Mapping]] = ...) -> None: ...

class PeerList(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[_types_pb2.NodeFacts]
    def __init__(self, peers: _Optional[_Iterable[_Union[_types_pb2.NodeFacts, _Mapping]]] = ...) -> None: ...

class LoadReport(_message.Message):
    __slots__ = ("load",)
    LOAD_FIELD_NUMBER: _ClassVar[int]
    load: _types_pb2.NodeLoad
    def __init__(self, load: _Optional[_Union[_types_pb2.NodeLoad, _Mapping]] = ...) -> None: ...

class ViewReport(_message.Message):
    __slots__ = ("ballot", "version", "members")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    ballot: _types_pb2.Ballot
    version: int
    members: _containers.RepeatedCompositeFieldContainer[_types_pb2.Member]
    def __init__(self, ballot: _Optional[_Union[_types_pb2.Ballot, _Mapping]] = ..., version: _Optional[int] = ..., members: _Optional[_Iterable[_Union[_types_pb2.Member, _Mapping]]] = ...) -> None: ...

class RequestOpen(_message.Message):
    __slots__ = ("stream_id", "request_id", "attempt", "model", "path", "body", "streaming", "prompt_tokens", "max_output_tokens", "initial_credit_bytes", "deadline_ms", "body_bytes", "node_id")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    STREAMING_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    request_id: str
    attempt: int
    model: str
    path: str
    body: bytes
    streaming: bool
    prompt_tokens: int
    max_output_tokens: int
    initial_credit_bytes: int
    deadline_ms: int
    body_bytes: int
    node_id: str
    def __init__(self, stream_id: _Optional[int] = ..., request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., model: _Optional[str] = ..., path: _Optional[str] = ..., body: _Optional[bytes] = ..., streaming: _Optional[bool] = ..., prompt_tokens: _Optional[int] = ..., max_output_tokens: _Optional[int] = ..., initial_credit_bytes: _Optional[int] = ..., deadline_ms: _Optional[int] = ..., body_bytes: _Optional[int] = ..., node_id: _Optional[str] = ...) -> None: ...

class RequestBody(_message.Message):
    __slots__ = ("stream_id", "chunk")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    chunk: bytes
    def __init__(self, stream_id: _Optional[int] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class RequestCancel(_message.Message):
    __slots__ = ("stream_id",)
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    def __init__(self, stream_id: _Optional[int] = ...) -> None: ...

class RequestCredit(_message.Message):
    __slots__ = ("stream_id", "bytes")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    bytes: int
    def __init__(self, stream_id: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class ResponseHead(_message.Message):
    __slots__ = ("stream_id", "status", "content_type", "retry_after_s")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    status: int
    content_type: str
    retry_after_s: int
    def __init__(self, stream_id: _Optional[int] = ..., status: _Optional[int] = ..., content_type: _Optional[str] = ..., retry_after_s: _Optional[int] = ...) -> None: ...

class ResponseData(_message.Message):
    __slots__ = ("stream_id", "chunk")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    chunk: bytes
    def __init__(self, stream_id: _Optional[int] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class ResponseChunks(_message.Message):
    __slots__ = ("stream_ids", "chunks")
    STREAM_IDS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    stream_ids: _containers.RepeatedScalarFieldContainer[int]
    chunks: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, stream_ids: _Optional[_Iterable[int]] = ..., chunks: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ResponseEnd(_message.Message):
    __slots__ = ("stream_id", "failure")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    failure: _types_pb2.Failure
    def __init__(self, stream_id: _Optional[int] = ..., failure: _Optional[_Union[_types_pb2.Failure, _Mapping]] = ...) -> None: ...

class Ask(_message.Message):
    __slots__ = ("request_id", "attempt", "model", "prompt_tokens", "max_output_tokens", "prefix_hashes", "excluded", "user", "priority", "deadline_ms", "waited_ms", "user_ahead_tokens", "total_prompt_tokens", "running_on")
    class ExcludedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HASHES_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    WAITED_MS_FIELD_NUMBER: _ClassVar[int]
    USER_AHEAD_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_ON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    model: str
    prompt_tokens: int
    max_output_tokens: int
    prefix_hashes: _containers.RepeatedScalarFieldContainer[int]
    excluded: _containers.ScalarMap[str, str]
    user: str
    priority: int
    deadline_ms: int
    waited_ms: int
    user_ahead_tokens: int
    total_prompt_tokens: int
    running_on: str
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., model: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., max_output_tokens: _Optional[int] = ..., prefix_hashes: _Optional[_Iterable[int]] = ..., excluded: _Optional[_Mapping[str, str]] = ..., user: _Optional[str] = ..., priority: _Optional[int] = ..., deadline_ms: _Optional[int] = ..., waited_ms: _Optional[int] = ..., user_ahead_tokens: _Optional[int] = ..., total_prompt_tokens: _Optional[int] = ..., running_on: _Optional[str] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("request_id", "attempt", "outcome", "node_id", "decision", "retry_after_ms", "user_ahead_tokens", "grant")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[Answer.Outcome]
        OUTCOME_ASSIGNED: _ClassVar[Answer.Outcome]
        OUTCOME_QUEUED: _ClassVar[Answer.Outcome]
        OUTCOME_NO_CANDIDATE: _ClassVar[Answer.Outcome]
    OUTCOME_UNSPECIFIED: Answer.Outcome
    OUTCOME_ASSIGNED: Answer.Outcome
    OUTCOME_QUEUED: Answer.Outcome
    OUTCOME_NO_CANDIDATE: Answer.Outcome
    class Grant(_message.Message):
        __slots__ = ("requests", "prompt_tokens", "valid_ms")
        REQUESTS_FIELD_NUMBER: _ClassVar[int]
        PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
        VALID_MS_FIELD_NUMBER: _ClassVar[int]
        requests: int
        prompt_tokens: int
        valid_ms: int
        def __init__(self, requests: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., valid_ms: _Optional[int] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    USER_AHEAD_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    outcome: Answer.Outcome
    node_id: str
    decision: _types_pb2.Decision
    retry_after_ms: int
    user_ahead_tokens: int
    grant: Answer.Grant
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., outcome: _Optional[_Union[Answer.Outcome, str]] = ..., node_id: _Optional[str] = ..., decision: _Optional[_Union[_types_pb2.Decision, _Mapping]] = ..., retry_after_ms: _Optional[int] = ..., user_ahead_tokens: _Optional[int] = ..., grant: _Optional[_Union[Answer.Grant, _Mapping]] = ...) -> None: ...

class AttemptReport(_message.Message):
    __slots__ = ("request_id", "attempt", "node_id", "withdrawn", "failed", "output_tokens", "refused", "prompt_tokens", "cached_prompt_tokens")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    node_id: str
    withdrawn: bool
    failed: bool
    output_tokens: int
    refused: bool
    prompt_tokens: int
    cached_prompt_tokens: int
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., node_id: _Optional[str] = ..., withdrawn: _Optional[bool] = ..., failed: _Optional[bool] = ..., output_tokens: _Optional[int] = ..., refused: _Optional[bool] = ..., prompt_tokens: _Optional[int] = ..., cached_prompt_tokens: _Optional[int] = ...) -> None: ...

class GrantedWork(_message.Message):
    __slots__ = ("model", "node_id", "user", "priority", "requests", "prompt_tokens", "output_tokens", "failed", "cached_prompt_tokens")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CACHED_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    model: str
    node_id: str
    user: str
    priority: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    failed: int
    cached_prompt_tokens: int
    def __init__(self, model: _Optional[str] = ..., node_id: _Optional[str] = ..., user: _Optional[str] = ..., priority: _Optional[int] = ..., requests: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., failed: _Optional[int] = ..., cached_prompt_tokens: _Optional[int] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("query_id", "kind", "payload")
    QUERY_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    query_id: int
    kind: str
    payload: bytes
    def __init__(self, query_id: _Optional[int] = ..., kind: _Optional[str] = ..., payload: _Optional[bytes] = ...) -> None: ...

class QueryReply(_message.Message):
    __slots__ = ("query_id", "found", "payload")
    QUERY_ID_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    query_id: int
    found: bool
    payload: bytes
    def __init__(self, query_id: _Optional[int] = ..., found: _Optional[bool] = ..., payload: _Optional[bytes] = ...) -> None: ...

class PoolChange(_message.Message):
    __slots__ = ("version", "leader_node_id", "ballot", "members", "gone", "lost")
    class LostLink(_message.Message):
        __slots__ = ("node_id", "loss")
        NODE_ID_FIELD_NUMBER: _ClassVar[int]
        LOSS_FIELD_NUMBER: _ClassVar[int]
        node_id: str
        loss: str
        def __init__(self, node_id: _Optional[str] = ..., loss: _Optional[str] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LEADER_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    version: int
    leader_node_id: str
    ballot: _types_pb2.Ballot
    members: _containers.RepeatedCompositeFieldContainer[_types_pb2.Member]
    gone: _containers.RepeatedScalarFieldContainer[str]
    lost: _containers.RepeatedCompositeFieldContainer[PoolChange.LostLink]
    def __init__(self, version: _Optional[int] = ..., leader_node_id: _Optional[str] = ..., ballot: _Optional[_Union[_types_pb2.Ballot, _Mapping]] = ..., members: _Optional[_Iterable[_Union[_types_pb2.Member, _Mapping]]] = ..., gone: _Optional[_Iterable[str]] = ..., lost: _Optional[_Iterable[_Union[PoolChange.LostLink, _Mapping]]] = ...) -> None: ...

class Relayed(_message.Message):
    __slots__ = ("node_id", "ask", "answer", "attempt", "granted_work", "tally")
    class Tally(_message.Message):
        __slots__ = ("passed", "refused")
        PASSED_FIELD_NUMBER: _ClassVar[int]
        REFUSED_FIELD_NUMBER: _ClassVar[int]
        passed: int
        refused: int
        def __init__(self, passed: _Optional[int] = ..., refused: _Optional[int] = ...) -> None: ...
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    GRANTED_WORK_FIELD_NUMBER: _ClassVar[int]
    TALLY_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    ask: Ask
    answer: Answer
    attempt: AttemptReport
    granted_work: GrantedWork
    tally: Relayed.Tally
    def __init__(self, node_id: _Optional[str] = ..., ask: _Optional[_Union[Ask, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., attempt: _Optional[_Union[AttemptReport, _Mapping]] = ..., granted_work: _Optional[_Union[GrantedWork, _Mapping]] = ..., tally: _Optional[_Union[Relayed.Tally, _Mapping]] = ...) -> None: ...

class Observed(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: bytes
    def __init__(self, events: _Optional[bytes] = ...) -> None: ...

class Listening(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Drain(_message.Message):
    __slots__ = ("grace_ms",)
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    grace_ms: int
    def __init__(self, grace_ms: _Optional[int] = ...) -> None: ...
