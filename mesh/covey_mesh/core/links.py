"""The one link to each machine that counts: when it comes, when it is doubted, when it is lost or let go.

Liveness in the manner of failure detectors that ask only when nothing was heard (liveness.py); who suspects a machine
asks it once more before calling it gone, as in SWIM (Das, Gupta, Motivala, 2002), and a machine that stalled itself
blames nobody. Not here: dialing (dials.py), what is said over a link (hearing.py, reports.py).
"""

from __future__ import annotations

from covey_mesh.core.census import QUIET_BATCHES_MAX, QUIET_SWEEPS
from covey_mesh.core.dialing import host_of
from covey_mesh.core.dials import Dials
from covey_mesh.core.effects import CloseLink, MemberLost, Send, TellElection
from covey_mesh.core.events import LinkDown, LinkUp, PeerFresh, PeerGone, PeerLinked, PeerUnlinked
from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.liveness import Finding, LinkLiveness
from covey_mesh.core.membership_state import MembershipState
from covey_mesh.core.messages import Heartbeat
from covey_mesh.core.peers import LeaderWord, LinkState, PeerRecord, replaces
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.timing import idle_heartbeat_s, leader_ask_s


class Links:
    """See the file's first lines."""

    def __init__(self, me: MembershipState, dials: Dials) -> None:
        self._me = me
        self._dials = dials

    def on_up(self, now_s: float, event: LinkUp) -> None:
        """Of two links to one machine one counts; a new incarnation proves that the old process has ended."""
        me = self._me
        node_id = event.facts.node_id
        if event.dialed:
            self._dials.succeeded(event.address, node_id)
        record = me.peers.meet(node_id, now_s)
        if record is None:
            me.effects.append(CloseLink(event.link, LinkLoss.CLOSED))
            return
        live = LinkLiveness(now_s, me.timing)
        new = LinkState(event.link, event.facts.incarnation, event.dialed, event.address, now_s, live)
        held = record.link
        if held is not None and not replaces(me.self_id, node_id, held, new, now_s, me.timing):
            self._retire(now_s, event.link)
            return
        if held is not None:
            self._drop_held(now_s, record, held, restarted=held.incarnation != new.incarnation)
        elif record.facts is not None and record.facts.incarnation != new.incarnation:
            me.effects.append(TellElection(PeerGone(node_id)))
        self._adopt(now_s, record, new, event.facts)

    def _drop_held(self, now_s: float, record: PeerRecord, held: LinkState, restarted: bool) -> None:
        me = self._me
        del me.links[held.number]
        if not restarted:
            self._retire(now_s, held.number)
            return
        me.effects.append(CloseLink(held.number, LinkLoss.RESTARTED))
        me.effects.append(MemberLost(record.node_id, LinkLoss.RESTARTED))
        me.effects.append(TellElection(PeerGone(record.node_id)))

    def _retire(self, now_s: float, link: int) -> None:
        """Close a link that does not count, a little later: the other side may not have seen its successor yet."""
        me = self._me
        me.timers.at(("retired", link), now_s + me.timing.replaced_linger_s)

    def _adopt(self, now_s: float, record: PeerRecord, link: LinkState, facts: NodeFacts) -> None:
        me = self._me
        if record.load is not None and record.load.incarnation != facts.incarnation:
            record.load = None
        record.link, record.facts, record.lost, record.reported = link, facts, None, None
        record.seen_at_s, record.load_told = now_s, -1
        me.links[link.number] = record.node_id
        record.learn_addresses(facts)
        record.target.succeeded()
        if link.dialed:
            record.target.prefer(link.address)
            hint = self._dials.hints.get(link.address)
            record.target.pinned |= hint is not None and hint.target.pinned
        me.effects.append(TellElection(PeerLinked(record.node_id)))
        me.effects.append(me.reports.peer_list_for(record.node_id))
        me.effects.extend(me.reports.load_for(record))
        me.effects.extend(me.reports.facts_for(record))
        if me.leading:
            me.effects.extend(me.reports.whole_view_for(record.node_id, now_s, me.ballot))
        me.census.stale()
        me.touch(now_s, record, urgent=True)
        me.soon(now_s, record)

    # --- lost ---------------------------------------------------------------------------------------------------------

    def on_down(self, now_s: float, event: LinkDown) -> None:
        """Only the loss of the link that counts matters."""
        me = self._me
        record = me.peers.get(me.links.get(event.link, me.self_id))
        if record is not None and record.link is not None:
            self._lose(now_s, record, event.loss)

    def _lose(self, now_s: float, record: PeerRecord, loss: LinkLoss) -> None:
        """Redial at once: success brings the machine back, refusal proves that its process has ended."""
        me = self._me
        link = record.link
        assert link is not None
        if loss is LinkLoss.CLOSED and not me.wants_link(record):
            self._let_go(now_s, record, link)
            return
        del me.links[link.number]
        record.link, record.lost, record.lost_at_s = None, loss, now_s
        record.seen_at_s = max(record.seen_at_s, link.liveness.heard_at_s)
        record.lost_host = host_of(link.address)
        record.target.prefer_host(record.lost_host)
        if link.dialed and link.address in record.target.addresses:
            record.target.prefer(link.address)
        short_lived = now_s - link.up_at_s < me.timing.simultaneous_s
        if loss is LinkLoss.REPLACED:
            record.target.next_dial_s = now_s + me.timing.dial_backoff_max_s
        elif short_lived:
            record.target.failed(now_s, loss, me.timing.dial_backoff_max_s, me.jitter(), me.timing)
            record.target.turn = 0
        else:
            record.target.failures, record.target.next_dial_s = 0, now_s
        me.effects.append(TellElection(PeerUnlinked(record.node_id)))
        if loss in (LinkLoss.REFUSED, LinkLoss.RESTARTED):
            me.effects.append(TellElection(PeerGone(record.node_id)))
        me.effects.append(MemberLost(record.node_id, loss))
        me.census.stale()
        me.touch(now_s, record, urgent=True)
        me.soon(now_s, record)

    def let_go_if_quiet(self, now_s: float, record: PeerRecord, link: LinkState) -> None:
        """In a large pool; the side that dialed decides, so that the two sides do not undo each other's choice."""
        me = self._me
        quiet = link.quiet(QUIET_BATCHES_MAX) >= QUIET_SWEEPS
        if quiet and link.dialed and not me.wants_link(record):
            me.effects.append(CloseLink(link.number, LinkLoss.CLOSED))
            self._let_go(now_s, record, link)

    def _let_go(self, now_s: float, record: PeerRecord, link: LinkState) -> None:
        """The machine is well, only the link is not needed: the leader's word about it counts from now on."""
        me = self._me
        del me.links[link.number]
        record.link, record.lost, record.seen_at_s = None, None, link.liveness.heard_at_s
        record.reported = LeaderWord(True, link.liveness.heard_at_s)
        me.effects.append(TellElection(PeerUnlinked(record.node_id)))
        me.effects.append(MemberLost(record.node_id, LinkLoss.CLOSED))
        me.touch(now_s, record)

    # --- alive --------------------------------------------------------------------------------------------------------

    def check(self, now_s: float, record: PeerRecord, link: LinkState) -> None:
        """Ask if it has been quiet for too long, give it up if it does not answer, plan the next look."""
        me = self._me
        ask_after_s = self._ask_after_s(record)
        finding = link.liveness.check(now_s, ask_after_s)
        if finding is Finding.SILENT:
            me.effects.append(CloseLink(link.number, LinkLoss.SILENT))
            self._lose(now_s, record, LinkLoss.SILENT)
            return
        if finding is Finding.ASK:
            me.effects.append(Send(record.node_id, Heartbeat(token=link.liveness.ask(now_s))))
        self.note_freshness(now_s, record, link)
        me.timers.at(("peer", record.node_id), link.liveness.due_s(now_s, ask_after_s))

    def note_freshness(self, now_s: float, record: PeerRecord, link: LinkState) -> None:
        """The election counts silence over fresh links as a sign that we may be deaf."""
        fresh = link.liveness.fresh(now_s)
        if fresh != link.fresh:
            link.fresh = fresh
            self._me.effects.append(TellElection(PeerFresh(record.node_id, fresh)))

    def _ask_after_s(self, record: PeerRecord) -> float:
        me = self._me
        if record.in_use:
            return me.timing.link_heartbeat_s
        if me.leading or record.node_id == me.leader:
            return leader_ask_s(me.census.size, me.timing)
        return idle_heartbeat_s(me.census.size, me.timing)

    def forgive_all(self, now_s: float, asking: bool) -> None:
        """This machine stalled. `asking`: for so long that the others may have closed their ends of idle links."""
        me = self._me
        for record in me.peers:
            if record.link is not None:
                record.link.liveness.forgive(now_s)
                if asking:
                    me.ask(now_s, record, record.link)
