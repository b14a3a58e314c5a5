"""Leadership held in etcd: one key a pool, bound to a lease; only the machine that holds the key may stand.

    read the key --nobody--> take it (a transaction on version == 0, with a lease) --> read again
         |--mine: renew the lease; may stand until lease and drift margin are over, counted from sending
         |--of my former process, or of a machine that is proven gone: take it away --> read again
         +--another's: wait until it changes (a watch, bounded) --> read again

The revision at which the key was taken is the counter of the ballots; nodes grant by ballot as ever (grants.py), so
that etcd decides who may stand and never who is obeyed. Without etcd's majority nobody's lease is renewed: the leader
steps down when its own clock says that the lease is over, gateways decide alone, and requests flow. Same recipe as
etcd's own election (concurrency package of its Go client), without the queue of waiting keys.
Not here: the calls (etcd_client.py), the election (core/election.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from covey_mesh.core.leadership_source import Candidate, Candidature
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import LAN_ETCD, EtcdTiming, leader_lease_s
from covey_mesh.io.etcd_client import KEY_PREFIX, EtcdClient, EtcdError, Held

FAILURES_TOLD = 3
"""Failed calls in a row until people are told, once: so many as there usually are members."""

_log = logging.getLogger(__name__)


def leader_key(pool_id: str) -> bytes:
    """Where a pool's leadership is held."""
    return f"{KEY_PREFIX}{pool_id}/leader".encode()


class EtcdLeadership:
    """See covey_mesh.core.leadership_source.LeadershipSource. `clock` must count suspended time."""

    def __init__(
        self,
        client: EtcdClient,
        pool_id: str,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        timing: EtcdTiming = LAN_ETCD,
    ) -> None:
        self._client = client
        self._key = leader_key(pool_id)
        self._clock = clock
        self._jitter = jitter
        self._timing = timing
        self._lease_id = 0
        self._seen: Held | None = None
        self._gone_revision = 0
        self._gone = asyncio.Event()
        self._idle_since_s: float | None = None
        self._hold_back_until_s = 0.0
        self._failures = 0
        self._handing_over = False
        self._task: asyncio.Task[None] | None = None

    # --- LeadershipSource ---------------------------------------------------------------------------------------------

    def start(self, candidate: Candidate) -> None:
        """See LeadershipSource."""
        self._candidate = candidate
        self._task = asyncio.get_running_loop().create_task(self._run(), name="leadership in etcd")
        self._task.add_done_callback(self._ended)

    def machine_gone(self, node_id: NodeId) -> None:
        """Its key need not wait for the end of its lease."""
        if self._seen is not None and self._seen.node_id == node_id:
            self._gone_revision = self._seen.revision
            self._gone.set()

    def halt(self) -> None:
        """See LeadershipSource."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Give the key up, so that another machine may stand at once; takes at most one call's time-out."""
        self._handing_over = True
        self.halt()
        if self._task is not None:
            await asyncio.wait([self._task])

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._round()
                except EtcdError as error:
                    self._note_failure(error)
                    self._client.use_next_endpoint()
                    await asyncio.sleep(self._timing.retry_s * (1 + self._jitter()))
                else:
                    self._note_success()
        finally:
            if self._handing_over and self._lease_id:
                with contextlib.suppress(EtcdError):
                    await self._client.revoke(self._lease_id)
            await self._client.close()

    async def _round(self) -> None:
        held = self._seen = await self._client.read(self._key)
        if held is None:
            await self._take()
        elif held.node_id != self._candidate.self_id:
            await self._wait(held)
        elif held.lease_id == self._lease_id:
            await self._renew(held)
        else:
            self._candidate.candidacy_closed()
            await self._client.take_away(self._key, held.revision)

    async def _take(self) -> None:
        """Nobody holds the key. Whether it was taken is read afterwards: an answer may get lost."""
        self._candidate.candidacy_closed()
        if self._clock() < self._hold_back_until_s:
            await asyncio.sleep(self._timing.renew_s)
            return
        self._lease_id = await self._client.grant_lease(self._timing.ttl_s)
        if not await self._client.take(self._key, self._candidate.self_id, self._lease_id):
            await self._client.revoke(self._lease_id)
            self._lease_id = 0

    async def _renew(self, held: Held) -> None:
        sent_at_s = self._clock()
        ttl_s = await self._client.keep_alive(self._lease_id)
        if ttl_s <= 0:
            self._candidate.candidacy_closed()
            return
        until_s = sent_at_s + leader_lease_s(ttl_s)
        self._candidate.candidacy_opened(Candidature(held.revision, until_s))
        if self._stands_in_vain():
            await self._resign()
        else:
            await asyncio.sleep(self._timing.renew_s)

    async def _wait(self, held: Held) -> None:
        """Another machine holds the key."""
        self._candidate.candidacy_closed()
        self._idle_since_s = None
        if held.revision != self._gone_revision:
            self._gone.clear()
            await self._first_of_change_and_proof(held)
        if held.revision == self._gone_revision:
            await self._client.take_away(self._key, held.revision)
        else:
            await asyncio.sleep(self._timing.take_spread_s * self._jitter())

    async def _first_of_change_and_proof(self, held: Held) -> None:
        change = asyncio.ensure_future(self._client.changed(self._key, held.read_at, self._timing.watch_s))
        proof = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait([change, proof], return_when=asyncio.FIRST_COMPLETED)
            if change.done():
                change.result()
        finally:
            for one in (change, proof):
                one.cancel()
            await asyncio.gather(change, proof, return_exceptions=True)

    # --- a holder that does not come to lead ------------------------------------------------------------------------

    def _stands_in_vain(self) -> bool:
        """True where this machine holds the key for long and does not lead (a full disk, another leader's grants)."""
        if self._candidate.leads:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = self._clock()
        return self._idle_since_s is not None and self._clock() - self._idle_since_s > self._timing.stand_within_s

    async def _resign(self) -> None:
        self._candidate.candidacy_closed()
        self._idle_since_s = None
        self._hold_back_until_s = self._clock() + self._timing.hold_back_s
        _log.warning(
            "holds the leadership in etcd and cannot lead: it is left to another machine; see this machine's disk, and "
            "that every machine of the pool has the same etcd_endpoints",
        )
        await self._client.revoke(self._lease_id)
        self._lease_id = 0

    # --- what people are told ---------------------------------------------------------------------------------------

    def _note_failure(self, error: EtcdError) -> None:
        """One failed call is no outage: etcd's own change of leader looks like that."""
        self._failures += 1
        if self._failures == FAILURES_TOLD:
            _log.warning(
                "%s; requests go on, the pool's leader steps down unless etcd answers; %s", error, error.advice
            )

    def _note_success(self) -> None:
        if self._failures >= FAILURES_TOLD:
            _log.warning("etcd at %s answers again", self._client.endpoint)
        self._failures = 0

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A crash is our own bug: said loudly, and this machine no longer stands."""
        if not task.cancelled() and task.exception() is not None:
            _log.critical("leadership in etcd crashed: this machine leads no more", exc_info=task.exception())
            self._candidate.candidacy_closed()
