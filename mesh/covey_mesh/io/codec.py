"""Control messages to and from wire items: one table each way, one small function a message.

An item whose case this build does not know, and a message whose enum value it does not know, are ignored (None), as
the compatibility rule in types.proto asks. Anything malformed is a PeerProtocolError. Not here: request bytes and
stream items (streams.py), facts (codec_facts.py), asks (codec_asking.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from covey_mesh.core.asking import Answer, Ask, AttemptReport, GrantedWork
from covey_mesh.core.limits import PEERS_MAX
from covey_mesh.core.messages import (
    ControlMessage,
    ElectionMessage,
    FactsReport,
    GrantReply,
    GrantRequest,
    Heartbeat,
    LeaseReleased,
    LoadReport,
    PeerList,
    PreVoteReply,
    PreVoteRequest,
    Query,
    QueryReply,
    ViewReport,
)
from covey_mesh.io.codec_asking import (
    answer_from_wire,
    answer_to_wire,
    ask_from_wire,
    ask_to_wire,
    granted_work_from_wire,
    granted_work_to_wire,
    report_from_wire,
    report_to_wire,
)
from covey_mesh.io.codec_facts import (
    facts_from_wire,
    facts_to_wire,
    load_from_wire,
    member_from_wire,
    member_to_wire,
    own_load_to_wire,
)
from covey_mesh.io.codec_values import (
    PeerProtocolError,
    ballot_from_wire,
    ballot_to_wire,
    bounded,
    clipped,
    from_ms,
    text,
    to_ms,
)
from covey_mesh.wire.v1 import link_pb2
from covey_mesh.wire.v1.link_pb2 import Item

QUERY_PAYLOAD_BYTES_MAX = 4 * 1024 * 1024
"""A question's or an answer's opaque bytes."""

__all__ = ["QUERY_PAYLOAD_BYTES_MAX", "PeerProtocolError", "decode", "encode"]


def encode(message: ControlMessage) -> Item:
    """The item that carries it. A value out of the wire's range raises ValueError: our bug."""
    return _ENCODERS[type(message)](message)


def decode(item: Item) -> ControlMessage | None:
    """None for what this build does not know and for items that are no control messages. Raises PeerProtocolError."""
    case = item.WhichOneof("kind")
    decoder = _DECODERS.get(case) if case else None
    return decoder(getattr(item, case)) if decoder and case else None


def _election(message: ElectionMessage) -> link_pb2.ElectionMessage:
    ballot = ballot_to_wire(message.ballot)
    match message:
        case PreVoteRequest():
            wire = link_pb2.PreVoteRequest(ballot=ballot, round=message.round)
            return link_pb2.ElectionMessage(pre_vote_request=wire)
        case PreVoteReply():
            reply = link_pb2.PreVoteReply(ballot=ballot, round=message.round, willing=message.willing)
            reply.promised.CopyFrom(ballot_to_wire(message.promised))
            reply.granted.CopyFrom(ballot_to_wire(message.granted))
            return link_pb2.ElectionMessage(pre_vote_reply=reply)
        case GrantRequest():
            request = link_pb2.GrantRequest(ballot=ballot, round=message.round, lease_ms=to_ms(message.lease_s))
            request.grants_held = message.grants_held
            return link_pb2.ElectionMessage(grant_request=request)
        case GrantReply():
            grant = link_pb2.GrantReply(ballot=ballot, round=message.round, granted=message.granted)
            grant.promised.CopyFrom(ballot_to_wire(message.promised))
            grant.reason = clipped(message.reason)
            return link_pb2.ElectionMessage(grant_reply=grant)
        case LeaseReleased():
            return link_pb2.ElectionMessage(lease_released=link_pb2.LeaseReleased(ballot=ballot))


def _election_from(wire: link_pb2.ElectionMessage) -> ElectionMessage | None:
    match wire.WhichOneof("kind"):
        case "pre_vote_request":
            ask = wire.pre_vote_request
            return PreVoteRequest(ballot_from_wire(ask.ballot), ask.round)
        case "pre_vote_reply":
            reply = wire.pre_vote_reply
            promised, granted = ballot_from_wire(reply.promised), ballot_from_wire(reply.granted)
            return PreVoteReply(ballot_from_wire(reply.ballot), reply.round, reply.willing, promised, granted)
        case "grant_request":
            request = wire.grant_request
            lease_s = from_ms(request.lease_ms)
            return GrantRequest(ballot_from_wire(request.ballot), request.round, lease_s, request.grants_held)
        case "grant_reply":
            grant = wire.grant_reply
            promised, reason = ballot_from_wire(grant.promised), text(grant.reason, "a reason")
            return GrantReply(ballot_from_wire(grant.ballot), grant.round, grant.granted, promised, reason)
        case "lease_released":
            return LeaseReleased(ballot_from_wire(wire.lease_released.ballot))
    return None


def _view(message: ViewReport) -> Item:
    members = [member_to_wire(member) for member in message.members]
    return Item(
        view=link_pb2.ViewReport(ballot=ballot_to_wire(message.ballot), version=message.version, members=members)
    )


def _view_from(wire: link_pb2.ViewReport) -> ViewReport:
    members = tuple(member_from_wire(member) for member in bounded(wire.members, PEERS_MAX, "members"))
    return ViewReport(ballot_from_wire(wire.ballot), wire.version, members)


def _query_from(wire: link_pb2.Query) -> Query:
    payload = bounded(wire.payload, QUERY_PAYLOAD_BYTES_MAX, "bytes of a query")
    return Query(wire.query_id, text(wire.kind, "a query's kind"), payload)


def _query_reply_from(wire: link_pb2.QueryReply) -> QueryReply:
    payload = bounded(wire.payload, QUERY_PAYLOAD_BYTES_MAX, "bytes of an answer")
    return QueryReply(wire.query_id, wire.found, payload)


def _peers_from(wire: link_pb2.PeerList) -> PeerList:
    return PeerList(tuple(facts_from_wire(facts) for facts in bounded(wire.peers, PEERS_MAX, "peers")))


_ENCODERS: dict[type, Callable[[Any], Item]] = {
    Heartbeat: lambda m: Item(heartbeat=link_pb2.Heartbeat(token=m.token, echo=m.echo)),
    PreVoteRequest: lambda m: Item(election=_election(m)),
    PreVoteReply: lambda m: Item(election=_election(m)),
    GrantRequest: lambda m: Item(election=_election(m)),
    GrantReply: lambda m: Item(election=_election(m)),
    LeaseReleased: lambda m: Item(election=_election(m)),
    PeerList: lambda m: Item(peers=link_pb2.PeerList(peers=[facts_to_wire(facts) for facts in m.peers])),
    LoadReport: lambda m: Item(load=link_pb2.LoadReport(load=own_load_to_wire(m.load))),
    ViewReport: _view,
    FactsReport: lambda m: Item(facts=facts_to_wire(m.facts)),
    Ask: lambda m: Item(ask=ask_to_wire(m)),
    Answer: lambda m: Item(answer=answer_to_wire(m)),
    AttemptReport: lambda m: Item(attempt=report_to_wire(m)),
    GrantedWork: lambda m: Item(granted_work=granted_work_to_wire(m)),
    Query: lambda m: Item(query=link_pb2.Query(query_id=m.query_id, kind=m.kind, payload=m.payload)),
    QueryReply: lambda m: Item(query_reply=link_pb2.QueryReply(query_id=m.query_id, found=m.found, payload=m.payload)),
}

_DECODERS: dict[str, Callable[[Any], ControlMessage | None]] = {
    "heartbeat": lambda w: Heartbeat(w.token, w.echo),
    "election": _election_from,
    "peers": _peers_from,
    "load": lambda w: LoadReport(load_from_wire(w.load)),
    "view": _view_from,
    "facts": lambda w: FactsReport(facts_from_wire(w)),
    "ask": ask_from_wire,
    "answer": answer_from_wire,
    "attempt": report_from_wire,
    "granted_work": granted_work_from_wire,
    "query": _query_from,
    "query_reply": _query_reply_from,
}
