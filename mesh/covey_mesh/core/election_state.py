"""What the parts of one machine's election share: its role, promise, canvass, leadership, links, and effects so far.

Not here: what changes it (campaign.py, leading.py, following.py), and in which order (election.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from covey_mesh.core.ballot import COUNTER_LEAP_MAX, COUNTER_MAX, NO_BALLOT, Ballot
from covey_mesh.core.candidacy import Canvass, Leadership
from covey_mesh.core.effects import ElectionEffect, Persist, Send
from covey_mesh.core.events import Promise
from covey_mesh.core.grants import Grants
from covey_mesh.core.leadership_source import Candidature
from covey_mesh.core.messages import ElectionMessage
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import Timing, lease_s
from covey_mesh.core.transitions import CHANGES, IllegalTransition, Role, Trigger


class ElectionState:
    """One machine's. `links` maps each linked machine to whether that link is fresh both ways."""

    def __init__(
        self,
        self_id: NodeId,
        timing: Timing,
        stored: Promise | None,
        started_at_s: float,
        jitter: Callable[[], float],
        candidature: Candidature,
    ) -> None:
        self.self_id = self_id
        self.timing = timing
        self.jitter = jitter
        self.role = Role.LEADERLESS
        self.grants = Grants(stored, started_at_s, timing)
        self.candidature = candidature
        self.links: dict[NodeId, bool] = {}
        self.canvass: Canvass | None = None
        self.leadership: Leadership | None = None
        self.unused_ballot = NO_BALLOT
        """An own ballot that came to disk too late to lead: nobody was ever asked under it, so it is as good as new."""
        self.effects: list[ElectionEffect] = []
        self.canvasses_lost = 0
        self.courtesies = 0
        self.handicap_s = 0.0
        self._rounds = 0
        first_s = max(started_at_s + timing.boot_listen_s, self.grants.abstains_until_s)
        self.campaign_at_s = first_s + jitter() * timing.campaign_jitter_s

    # --- read -------------------------------------------------------------------------------------------------------

    def leader_and_ballot(self, now_s: float) -> tuple[NodeId | None, Ballot]:
        """Whom this machine follows now, itself when it leads, and under which ballot."""
        if self.leadership is not None:
            leads = now_s < self.leadership.self_until_s
            return (self.self_id, self.leadership.ballot) if leads else (None, NO_BALLOT)
        if self.role is not Role.FOLLOWING:
            return None, NO_BALLOT
        live = self.grants.live(now_s)
        return (None, NO_BALLOT) if live == NO_BALLOT else (live.node_id, live)

    def lease_s(self) -> float:
        """What to ask for now, with so many machines linked."""
        return lease_s(len(self.links) + 1, self.timing)

    def next_ballot(self, above: Ballot) -> Ballot:
        """Above `above`, and from the candidature's counter on unless the others would take that for a lie."""
        return max(above.next_for(self.self_id), self._lowest_ballot(above))

    def ballot_to_stand_with(self, highest: Ballot) -> Ballot:
        """The unused one if nothing higher was heard of: it need not be written again, which a slow disk may never
        manage within a lease. Else the next."""
        unused = self.unused_ballot
        usable = unused != NO_BALLOT and unused >= max(highest, self._lowest_ballot(highest))
        return unused if usable else self.next_ballot(highest)

    def _lowest_ballot(self, above: Ballot) -> Ballot:
        counter = self.candidature.counter
        return Ballot(counter if counter <= min(COUNTER_MAX, above.counter + COUNTER_LEAP_MAX) else 0, self.self_id)

    # --- change -----------------------------------------------------------------------------------------------------

    def become(self, trigger: Trigger) -> None:
        """Raises IllegalTransition where the table has no such change."""
        change = CHANGES.get((self.role, trigger))
        if change is None:
            raise IllegalTransition(f"{self.role.value}: {trigger.value}")
        self.role = change.to

    def send(self, peers: Iterable[NodeId], message: ElectionMessage) -> None:
        """To each of them."""
        self.effects.extend(Send(peer, message) for peer in peers)

    def persist(self, promise: Promise | None) -> None:
        """Precondition: nothing else is being written."""
        assert promise is not None, "what is above every promise must be written first"
        self.effects.append(Persist(promise))

    def campaign_soon(self, now_s: float) -> None:
        """The next campaign, unless a leader is found before. Who lost a leader or a campaign abstains no more."""
        pause_s = self.timing.campaign_settle_s + self.jitter() * self.timing.campaign_jitter_s + self.handicap_s
        self.campaign_at_s = now_s + pause_s

    def next_round(self) -> int:
        """Numbers what is asked of the others, so that each answer is matched with what it answers."""
        self._rounds += 1
        return self._rounds

    def promise_self(self, now_s: float, above: Ballot) -> None:
        """Begin to write a ballot of one's own above `above`."""
        self.persist(self.grants.begin(now_s, self.next_ballot(above), self.lease_s(), 0))
