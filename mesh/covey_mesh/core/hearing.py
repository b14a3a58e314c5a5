"""What other machines say, and how much of it is believed.

A machine speaks for itself; of others only the leader that we granted does, and our own knowledge goes before its word
unless the word is newer (view.is_reachable). Not here: what this machine says (reports.py), requests and elections.
"""

from __future__ import annotations

from dataclasses import replace

from covey_mesh.core.dials import Dials
from covey_mesh.core.effects import MemberChanged, Send
from covey_mesh.core.facts import Member, NodeFacts, NodeLoad
from covey_mesh.core.links import Links
from covey_mesh.core.membership_state import MembershipState
from covey_mesh.core.messages import FactsReport, Heartbeat, LoadReport, PeerList, ViewReport
from covey_mesh.core.names import is_id
from covey_mesh.core.peers import LeaderWord, PeerRecord
from covey_mesh.core.reports import PEER_LIST_MAX, VIEW_CHUNK
from covey_mesh.core.view import is_reachable


class Hearing:
    """See the file's first lines. Every `received` is a message and the record of the machine that sent it."""

    def __init__(self, me: MembershipState, links: Links, dials: Dials) -> None:
        self._me = me
        self._links = links
        self._dials = dials

    def on_heartbeat(self, now_s: float, received: tuple[PeerRecord, Heartbeat]) -> None:
        """An answer to our question, a question, or both."""
        me = self._me
        record, heartbeat = received
        if record.link is None:
            return
        if heartbeat.echo:
            record.link.liveness.answered(now_s, heartbeat.echo)
            self._links.note_freshness(now_s, record, record.link)
        if heartbeat.token:
            me.effects.append(Send(record.node_id, Heartbeat(echo=heartbeat.token)))
            me.effects.extend(me.reports.load_for(record))

    def on_peer_list(self, now_s: float, received: tuple[PeerRecord, PeerList]) -> None:
        """Hints, no more."""
        for facts in received[1].peers[:PEER_LIST_MAX]:
            if facts.link_addresses and (self._me.peers.get(facts.node_id) is not None or is_id(facts.node_id)):
                self._dials.hint_machine(now_s, facts.node_id, facts.link_addresses, False)

    def on_load_report(self, now_s: float, received: tuple[PeerRecord, LoadReport]) -> None:
        """A machine speaks for itself only."""
        record, report = received
        if report.load.node_id == record.node_id:
            self._take_load(now_s, record, report.load)

    def _take_load(self, now_s: float, record: PeerRecord, load: NodeLoad) -> None:
        """A later report of the incarnation that we know; while linked, that of the link."""
        if record.facts is not None and load.incarnation != record.facts.incarnation:
            return
        me, known = self._me, record.load
        if known is not None and not load.newer_than(known):
            return
        record.load = load
        if known is not None and load == replace(known, sequence=load.sequence):
            # Said again to a new leader: its scheduler waits for this, nobody else learns anything from it.
            me.view.changed()
            me.effects.append(MemberChanged(record.node_id))
        else:
            me.touch(now_s, record)

    def on_facts_report(self, now_s: float, received: tuple[PeerRecord, FactsReport]) -> None:
        """A machine speaks for itself only, and facts change only forwards."""
        record, facts = received[0], received[1].facts
        known = record.facts
        if facts.node_id != record.node_id or known is None or facts.incarnation != known.incarnation:
            return
        if facts.facts_version > known.facts_version:
            record.facts = facts
            record.learn_addresses(facts)
            self._me.touch(now_s, record)

    def on_view_report(self, now_s: float, received: tuple[PeerRecord, ViewReport]) -> None:
        """Believed only from the leader that this machine granted, under the ballot that it granted."""
        me = self._me
        record, report = received
        if record.node_id != me.leader or report.ballot < me.ballot:
            return
        for member in report.members[:VIEW_CHUNK]:
            if is_id(member.node_id) and member.load.node_id == member.node_id != record.node_id:
                self._take_word(now_s, member)
            elif member.node_id == record.node_id:
                self._take_load(now_s, record, member.load)

    def _take_word(self, now_s: float, member: Member) -> None:
        me = self._me
        record = me.peers.meet(member.node_id, now_s)
        if record is None:
            return
        was = (is_reachable(record), record.facts)
        record.reported = LeaderWord(member.reachable, now_s - self._age_s(member))
        if record.link is None and self._news(record.facts, member.facts):
            record.facts = member.facts
            self._dials.hint_machine(now_s, member.node_id, member.facts.link_addresses, False)
        self._take_load(now_s, record, member.load)
        if was != (is_reachable(record), record.facts):
            me.census.stale()
            me.touch(now_s, record)
        if record.link is not None and not member.reachable:
            me.ask(now_s, record, record.link)

    def _age_s(self, member: Member) -> float:
        """How old the leader's word is. Calling a machine silent, it has asked in vain for the answer deadline."""
        silent_s = max(0.0, member.silent_for_s)
        return silent_s if member.reachable else min(silent_s, self._me.timing.answer_deadline_s)

    @staticmethod
    def _news(known: NodeFacts | None, told: NodeFacts) -> bool:
        return known is None or known.incarnation != told.incarnation or told.facts_version > known.facts_version
