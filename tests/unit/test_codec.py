"""Every control message survives the wire; nothing a peer sends gets further than a typed error."""

from __future__ import annotations

import math
import types
import typing

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from covey_mesh.core import asking, messages
from covey_mesh.core.asking import Answer, Ask, CandidateVerdict, Decision, Outcome
from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.facts import EngineState, Gpu, Member, ModelLoad, NodeFacts, NodeLoad, Task
from covey_mesh.core.marks import MARKS_MAX
from covey_mesh.core.names import NodeId
from covey_mesh.core.speeds import POINTS_MAX, SOURCES, DecodePoint, ModelSpeeds, PrefillPoint
from covey_mesh.io import codec
from covey_mesh.io.codec_asking import failure_from_wire, failure_to_wire
from covey_mesh.io.codec_values import ADDRESSES_MAX, TEXT_CHARS_MAX, PeerProtocolError, to_ms
from covey_mesh.wire.v1 import link_pb2, types_pb2
from covey_mesh.wire.v1.link_pb2 import Batch, Item

NODE = NodeId("0123456789abcdef" * 2)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
node_ids = st.text("0123456789abcdef", min_size=32, max_size=32).map(NodeId)
amounts = st.floats(0, 1e12)
milliseconds_s = st.integers(0, 2**32 - 1).map(lambda ms: ms / 1000)
ballots = st.just(NO_BALLOT) | st.builds(Ballot, u64, node_ids)


def tuples(of: st.SearchStrategy[typing.Any], size: int = 3) -> st.SearchStrategy[tuple[typing.Any, ...]]:
    return st.lists(of, max_size=size).map(tuple)


gpus = st.builds(
    Gpu,
    index=u32,
    uuid=texts,
    name=texts,
    memory_total_bytes=u64,
    memory_free_bytes=u64,
    utilization_percent=st.none() | u32,
    power_w=st.none() | amounts,
    temperature_c=st.none() | amounts,
    foreign_processes=u32,
)
speeds = st.builds(
    ModelSpeeds,
    prefill=tuples(st.builds(PrefillPoint, u32, amounts), POINTS_MAX),
    decode=tuples(st.builds(DecodePoint, u32, u32, amounts), POINTS_MAX),
    batch_slowdown=amounts,
    load_s=amounts,
    source=st.sampled_from(SOURCES),
    confidence=st.floats(0, 1),
    observations=u32,
    spread=amounts,
    measured_unix_s=amounts,
    prefill_factor=amounts,
    decode_factor=amounts,
)
model_loads = st.builds(
    ModelLoad,
    speeds=speeds,
    model=texts,
    state=st.sampled_from(EngineState),
    engine=texts,
    task=st.sampled_from(Task),
    max_context_tokens=u32,
    running_requests=u32,
    waiting_requests=u32,
    running_limit=u32,
    waiting_limit=u32,
    queued_tokens=u64,
    queued_prompt_tokens=u64,
    prefix_cache_tokens=u64,
    prefix_cache_evicted_tokens=u64,
    kv_cache_tokens_total=u64,
    kv_cache_tokens_free=u64,
    prefill_tokens_per_s=amounts,
    decode_tokens_per_s=amounts,
    detail=texts,
    restarts=u32,
)


def facts_for(node_id: NodeId) -> st.SearchStrategy[NodeFacts]:
    return st.builds(
        NodeFacts,
        node_id=st.just(node_id),
        name=texts,
        version=texts,
        protocol=u32,
        incarnation=u64,
        link_addresses=tuples(texts),
        gateway_addresses=tuples(texts),
        cpu_name=texts,
        cpu_count=u32,
        memory_total_bytes=u64,
        facts_version=u64,
    )


def loads_for(node_id: NodeId) -> st.SearchStrategy[NodeLoad]:
    return st.builds(
        NodeLoad,
        node_id=st.just(node_id),
        incarnation=u64,
        sequence=u64,
        gpus=tuples(gpus, 2),
        models=tuples(model_loads, 2),
        draining=st.booleans(),
        memory_free_bytes=u64,
    )


members = node_ids.flatmap(
    lambda node_id: st.builds(
        Member,
        facts=facts_for(node_id),
        load=loads_for(node_id),
        reachable=st.booleans(),
        round_trip_s=st.integers(0, 10**6).map(lambda ms: ms / 1000),
        silent_for_s=amounts,
    )
)
verdicts = st.builds(
    CandidateVerdict,
    node_id=node_ids,
    rejected_because=texts,
    first_token_s=st.none() | amounts | st.just(math.inf),
    last_token_s=st.none() | amounts,
    terms_s=st.dictionaries(texts, amounts, max_size=3),
)
decisions = st.builds(
    Decision,
    request_id=texts,
    attempt=u32,
    model=texts,
    decided_at_unix_s=amounts,
    decided_by=texts,
    decider=node_ids,
    outcome=st.sampled_from(Outcome),
    policy=texts,
    ballot=ballots,
    view_version=u64,
    chosen=st.none() | node_ids,
    queued_for_s=amounts,
    candidates=tuples(verdicts, 2),
    turned_away=texts,
)
payloads = st.binary(max_size=50)
any_facts, any_load = node_ids.flatmap(facts_for), node_ids.flatmap(loads_for)

grants = st.builds(
    asking.Grant,
    st.integers(0, asking.GRANT_REQUESTS_MAX),
    st.integers(0, asking.GRANT_PROMPT_TOKENS_MAX),
    st.integers(0, 1000).map(lambda ms: ms / 1000),
)

EVERY_MESSAGE: dict[type, st.SearchStrategy[typing.Any]] = {
    messages.Heartbeat: st.builds(messages.Heartbeat, u64, u64),
    messages.PreVoteRequest: st.builds(messages.PreVoteRequest, ballots, u64),
    messages.PreVoteReply: st.builds(messages.PreVoteReply, ballots, u64, st.booleans(), ballots, ballots),
    messages.GrantRequest: st.builds(messages.GrantRequest, ballots, u64, milliseconds_s, u32),
    messages.GrantReply: st.builds(messages.GrantReply, ballots, u64, st.booleans(), ballots, texts),
    messages.LeaseReleased: st.builds(messages.LeaseReleased, ballots),
    messages.PeerList: st.builds(messages.PeerList, tuples(any_facts)),
    messages.LoadReport: st.builds(messages.LoadReport, any_load),
    messages.ViewReport: st.builds(messages.ViewReport, ballots, u64, tuples(members, 2)),
    messages.FactsReport: st.builds(messages.FactsReport, any_facts),
    messages.Query: st.builds(messages.Query, u64, texts, payloads),
    messages.QueryReply: st.builds(messages.QueryReply, u64, st.booleans(), payloads),
    asking.Ask: st.builds(
        Ask,
        request_id=texts,
        attempt=u32,
        model=texts,
        prompt_tokens=u32,
        max_output_tokens=u32,
        prefix_hashes=tuples(u64),
        excluded=st.dictionaries(node_ids, texts, max_size=3),
        user=texts,
        priority=u32,
        deadline_s=milliseconds_s,
        waited_s=milliseconds_s,
        user_ahead_tokens=u64,
        running_on=st.none() | node_ids,
    ),
    asking.Answer: st.builds(
        Answer,
        request_id=texts,
        attempt=u32,
        outcome=st.sampled_from(Outcome),
        node_id=st.none() | node_ids,
        decision=st.none() | decisions,
        retry_after_ms=u32,
        user_ahead_tokens=u64,
        grant=st.none() | grants,
    ),
    asking.GrantedWork: st.builds(
        asking.GrantedWork,
        model=texts,
        node_id=node_ids,
        user=texts,
        priority=u32,
        requests=u32,
        prompt_tokens=u64,
        output_tokens=u64,
        failed=u32,
        cached_prompt_tokens=u64,
    ),
    asking.AttemptReport: st.builds(
        asking.AttemptReport,
        request_id=texts,
        attempt=u32,
        node_id=st.none() | node_ids,
        withdrawn=st.booleans(),
        failed=st.booleans(),
        output_tokens=u32,
        refused=st.booleans(),
        prompt_tokens=u32,
        cached_prompt_tokens=u32,
    ),
}


def test_every_kind_of_message_is_generated() -> None:
    flat: set[type] = set()
    for kind in typing.get_args(messages.ControlMessage):
        flat.update(typing.get_args(kind) if isinstance(kind, types.UnionType) else [kind])
    assert flat == set(EVERY_MESSAGE) == set(codec._ENCODERS)


@pytest.mark.parametrize("kind", EVERY_MESSAGE, ids=lambda kind: kind.__name__)
def test_round_trip(kind: type) -> None:
    @settings(max_examples=40, deadline=None)
    @given(EVERY_MESSAGE[kind])
    def check(message: typing.Any) -> None:
        raw = Batch(items=[codec.encode(message)]).SerializeToString()
        assert codec.decode(Batch.FromString(raw).items[0]) == message

    check()


@pytest.mark.parametrize("marks", [frozenset({0, 7, 2**32 - 1}), frozenset(), None], ids=["some", "none", "untold"])
def test_which_requests_a_machine_holds_is_told_by_itself_and_not_passed_on(marks: frozenset[int] | None) -> None:
    model = ModelLoad("m", EngineState.READY, "vllm", Task.GENERATE, 1, marks=marks)
    load = NodeLoad(NODE, 1, 1, models=(model,))
    member = Member(NodeFacts(NODE, "host", "0", 1, 1), load, True)
    told = codec.decode(codec.encode(messages.LoadReport(load)))
    passed_on = codec.decode(codec.encode(messages.ViewReport(Ballot(1, NODE), 1, (member,))))
    assert isinstance(told, messages.LoadReport)
    assert isinstance(passed_on, messages.ViewReport)
    assert told.load.models[0].marks == marks
    assert passed_on.members[0].load.models[0].marks is None


def test_a_grant_is_bounded_whatever_a_leader_says() -> None:
    most = link_pb2.Answer.Grant(requests=2**32 - 1, prompt_tokens=2**32 - 1, valid_ms=2**32 - 1)
    outcome = link_pb2.Answer.OUTCOME_ASSIGNED
    decoded = codec.decode(Item(answer=link_pb2.Answer(request_id="r", outcome=outcome, grant=most)))
    assert isinstance(decoded, Answer)
    assert decoded.grant == asking.Grant(
        asking.GRANT_REQUESTS_MAX, asking.GRANT_PROMPT_TOKENS_MAX, asking.GRANT_VALID_S_MAX
    )


@pytest.mark.parametrize("code", FailureCode)
def test_failures_round_trip(code: FailureCode) -> None:
    failure = Failure(code, "why", 250)
    assert failure_from_wire(failure_to_wire(failure)) == failure


def test_a_failure_of_a_later_build_is_still_a_failure() -> None:
    assert failure_from_wire(types_pb2.Failure(code=99)).code is FailureCode.INTERNAL  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "item",
    [
        Item(),
        Item(election=link_pb2.ElectionMessage()),
        Item(answer=link_pb2.Answer(request_id="r")),
        Item(answer=link_pb2.Answer(request_id="r", outcome=77)),  # type: ignore[arg-type]
        Item(cancel=link_pb2.RequestCancel(stream_id=1)),
        Item.FromString(b"\xf2\x7f\x03abc"),
    ],
    ids=["empty", "unknown election", "no outcome", "unknown outcome", "stream item", "unknown case"],
)
def test_unknown_things_are_ignored(item: Item) -> None:
    assert codec.decode(item) is None


def test_unknown_enum_values_inside_a_load() -> None:
    load = types_pb2.NodeLoad(node_id=NODE)
    load.models.add(model="a", state=99, task="generate")  # type: ignore[arg-type]
    load.models.add(model="b", state=types_pb2.ENGINE_STATE_READY, task="paint")
    decoded = codec.decode(Item(load=link_pb2.LoadReport(load=load)))
    assert isinstance(decoded, messages.LoadReport)
    assert [(m.model, m.state) for m in decoded.load.models] == [("a", EngineState.STOPPED)]


def _facts(**changes: typing.Any) -> types_pb2.NodeFacts:
    return types_pb2.NodeFacts(**{"node_id": NODE, **changes})


def _load(**changes: typing.Any) -> Item:
    return Item(load=link_pb2.LoadReport(load=types_pb2.NodeLoad(**{"node_id": NODE, **changes})))


def _model(**changes: typing.Any) -> Item:
    return _load(models=[types_pb2.ModelLoad(task="generate", **changes)])


BALLOT_WITHOUT_MACHINE = types_pb2.Ballot(counter=3)


@pytest.mark.parametrize(
    "item",
    [
        Item(facts=types_pb2.NodeFacts()),
        Item(facts=_facts(node_id="0" * 31)),
        Item(facts=_facts(node_id="G" * 32)),
        Item(facts=_facts(node_id="../../../../../../../../etc/pass")),
        Item(facts=_facts(name="x" * (TEXT_CHARS_MAX + 1))),
        Item(facts=_facts(link_addresses=["a:1"] * (ADDRESSES_MAX + 1))),
        _load(node_id=""),
        _load(gpus=[types_pb2.Gpu()] * 65),
        _load(models=[types_pb2.ModelLoad()] * 257),
        _load(gpus=[types_pb2.Gpu(power_w=math.nan)]),
        _model(prefill_tokens_per_s=math.nan),
        _model(decode_tokens_per_s=-1.0),
        _model(decode_tokens_per_s=math.inf),
        _model(speeds=types_pb2.ModelSpeeds(prefill=[types_pb2.ModelSpeeds.Prefill()] * (POINTS_MAX + 1))),
        _model(speeds=types_pb2.ModelSpeeds(decode=[types_pb2.ModelSpeeds.Decode()] * (POINTS_MAX + 1))),
        _model(speeds=types_pb2.ModelSpeeds(decode=[types_pb2.ModelSpeeds.Decode(step_s=math.nan)])),
        _model(speeds=types_pb2.ModelSpeeds(batch_slowdown=math.nan)),
        _model(speeds=types_pb2.ModelSpeeds(prefill_factor=-1.0)),
        _model(marks=types_pb2.RequestMarks(marks=range(MARKS_MAX + 1))),
        Item(election=link_pb2.ElectionMessage(lease_released=link_pb2.LeaseReleased(ballot=BALLOT_WITHOUT_MACHINE))),
        Item(view=link_pb2.ViewReport(members=[types_pb2.Member(facts=_facts())])),
        Item(view=link_pb2.ViewReport(members=[types_pb2.Member()] * 4097)),
        Item(peers=link_pb2.PeerList(peers=[_facts()] * 4097)),
        Item(ask=link_pb2.Ask(prefix_hashes=range(8193))),
        Item(ask=link_pb2.Ask(excluded={"nobody": "x"})),
        Item(ask=link_pb2.Ask(running_on="nobody")),
        Item(attempt=link_pb2.AttemptReport(node_id="nobody")),
        Item(granted_work=link_pb2.GrantedWork(node_id="nobody")),
        Item(granted_work=link_pb2.GrantedWork(requests=1)),
        Item(granted_work=link_pb2.GrantedWork(node_id=NODE, user="x" * (TEXT_CHARS_MAX + 1))),
        Item(granted_work=link_pb2.GrantedWork(node_id=NODE, model="x" * (TEXT_CHARS_MAX + 1))),
        Item(query=link_pb2.Query(payload=bytes(codec.QUERY_PAYLOAD_BYTES_MAX + 1))),
        Item(query_reply=link_pb2.QueryReply(payload=bytes(codec.QUERY_PAYLOAD_BYTES_MAX + 1))),
    ],
)
def test_malformed_things_are_the_peers_fault(item: Item) -> None:
    with pytest.raises(PeerProtocolError):
        codec.decode(item)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 30))
def test_any_bytes_decode_or_raise_the_typed_error(content: bytes, field: int) -> None:
    """Bytes inside an item of each kind: whatever protobuf accepts, the codec judges."""
    try:
        item = Item.FromString(bytes([(field << 3 | 2) & 0x7F, len(content) & 0x7F]) + content[: len(content) & 0x7F])
    except DecodeError:
        return
    try:
        decoded = codec.decode(item)
    except PeerProtocolError:
        return
    assert decoded is None or type(decoded) in EVERY_MESSAGE


@pytest.mark.parametrize(
    ("seconds", "ms"),
    [(0.0, 0), (0.0001, 1), (1.0, 1000), (1.0001, 1001), (0.3, 300), (-1.0, 0), (1e12, 2**32 - 1)],
)
def test_seconds_to_milliseconds(seconds: float, ms: int) -> None:
    assert to_ms(seconds) == ms


def test_our_own_long_texts_do_not_break_the_peer() -> None:
    load = NodeLoad(
        NODE, 1, 1, models=(ModelLoad("m", EngineState.FAILED, "vllm", Task.GENERATE, 1, detail="x" * 9999),)
    )
    assert codec.decode(codec.encode(messages.LoadReport(load))) is not None
    failure = failure_from_wire(failure_to_wire(Failure(FailureCode.INTERNAL, "x" * 9999)))
    assert len(failure.message) == TEXT_CHARS_MAX
