"""The five calls of etcd's v3 API that leadership needs, over one endpoint at a time, each bounded in time.

`aetcd` brings etcd's messages and stubs. Its client is not used: it knows one endpoint, no TLS, and a watch without
an end. Not here: what a key means, when to try again (etcd_leadership.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from aetcd import rpc

from covey_mesh.core.names import NodeId

KEY_PREFIX = "covey/"
"""Of every key that is read or written."""

_CHANNEL_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000))
"""No keepalive pings: etcd ends connections that ping more often than every 5 s; every call has a deadline instead."""

_NEEDS_LEADER = (("hasleader", "true"),)
"""A member that lost the others ends the watch instead of keeping it silent."""

_REFUSED = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,  # "user name is empty": its authentication is on, and no certificate was shown
)
_SIGNS_OF_TLS = ("handshake", "ssl", "tls", "tsi_")
_DETAIL_LENGTH_MAX = 200


class EtcdError(Exception):
    """A call failed; `advice` says what to do if it goes on."""

    def __init__(self, endpoint: str, detail: str, advice: str) -> None:
        super().__init__(f"etcd at {endpoint}: {detail[:_DETAIL_LENGTH_MAX]}")
        self.endpoint = endpoint
        self.advice = advice


class EtcdUnavailable(EtcdError):
    """That member, or the majority of its cluster, does not answer."""


class EtcdRefused(EtcdError):
    """It answers, and does not let us in."""


class EtcdFilesError(Exception):
    """The files for TLS cannot be used."""


@dataclass(frozen=True, slots=True)
class Held:
    """Who holds a key: the machine, its lease, and the revision at which it took the key; all as of `read_at`."""

    node_id: NodeId
    lease_id: int
    revision: int
    read_at: int


class EtcdClient:
    """Use on one event loop. Every call raises EtcdError. `endpoints`: HOST:PORT, tried in turn."""

    def __init__(
        self, endpoints: Sequence[str], credentials: grpc.ChannelCredentials | None, call_timeout_s: float
    ) -> None:
        assert endpoints
        self._endpoints = tuple(endpoints)
        self._credentials = credentials
        self._timeout_s = call_timeout_s
        self._current = 0
        self._channels: dict[str, Any] = {}

    @property
    def endpoint(self) -> str:
        """The one in use."""
        return self._endpoints[self._current]

    def use_next_endpoint(self) -> None:
        """After a failure."""
        self._current = (self._current + 1) % len(self._endpoints)

    async def close(self) -> None:
        """Ends calls in flight."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    # --- calls ------------------------------------------------------------------------------------------------------

    async def read(self, key: bytes) -> Held | None:
        """Who holds `key` now, as the majority knows it (a linearizable read)."""
        answer = await self._call(rpc.KVStub(self._channel()).Range(rpc.RangeRequest(key=key), timeout=self._timeout_s))
        return _held(answer.kvs[0], answer.header.revision) if answer.kvs else None

    async def grant_lease(self, ttl_s: float) -> int:
        """The id of a new lease of at least `ttl_s`."""
        request = rpc.LeaseGrantRequest(TTL=-int(-ttl_s // 1))
        answer = await self._call(rpc.LeaseStub(self._channel()).LeaseGrant(request, timeout=self._timeout_s))
        return int(answer.ID)

    async def keep_alive(self, lease_id: int) -> float:
        """Seconds that the lease lasts from the sending of this call on; 0: it is over."""
        requests = _once(rpc.LeaseKeepAliveRequest(ID=lease_id))
        call = rpc.LeaseStub(self._channel()).LeaseKeepAlive(requests, timeout=self._timeout_s)
        answer = await self._first(call)
        return max(0.0, float(answer.TTL))

    async def revoke(self, lease_id: int) -> None:
        """End a lease, and with it every key that is bound to it."""
        request = rpc.LeaseRevokeRequest(ID=lease_id)
        try:
            await self._call(rpc.LeaseStub(self._channel()).LeaseRevoke(request, timeout=self._timeout_s))
        except EtcdError as error:
            if (
                not isinstance(error.__cause__, grpc.RpcError)
                or error.__cause__.code() is not grpc.StatusCode.NOT_FOUND
            ):
                raise

    async def take(self, key: bytes, node_id: NodeId, lease_id: int) -> bool:
        """Take `key` for this machine if nobody holds it; True if it was taken."""
        free = rpc.Compare(key=key, target=rpc.Compare.VERSION, result=rpc.Compare.EQUAL, version=0)
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=node_id.encode(), lease=lease_id))
        return await self._transact(free, put)

    async def take_away(self, key: bytes, revision: int) -> bool:
        """Delete `key` if it is still the one taken at `revision`; True if it was deleted."""
        same = rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=revision)
        delete = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
        return await self._transact(same, delete)

    async def changed(self, key: bytes, read_at: int, timeout_s: float) -> bool:
        """Wait until `key`, read at that revision, changes; False if it did not within `timeout_s`."""
        create = rpc.WatchCreateRequest(key=key, start_revision=read_at + 1)
        requests = _once(rpc.WatchRequest(create_request=create))
        call = rpc.WatchStub(self._channel()).Watch(requests, timeout=timeout_s, metadata=_NEEDS_LEADER)
        try:
            async for answer in call:
                if answer.events:
                    return True
                if answer.canceled:
                    raise self._unavailable(answer.cancel_reason or "ended the watch", None)
        except grpc.aio.AioRpcError as error:
            if not _timed_out(error):
                raise self._translated(error) from error
        finally:
            call.cancel()
        return False

    # --- how ----------------------------------------------------------------------------------------------------------

    def _channel(self) -> Any:
        if self.endpoint not in self._channels:
            made = (
                grpc.aio.insecure_channel(self.endpoint, options=_CHANNEL_OPTIONS)
                if self._credentials is None
                else grpc.aio.secure_channel(self.endpoint, self._credentials, options=_CHANNEL_OPTIONS)
            )
            self._channels[self.endpoint] = made
        return self._channels[self.endpoint]

    async def _transact(self, condition: Any, then: Any) -> bool:
        request = rpc.TxnRequest(compare=[condition], success=[then])
        answer = await self._call(rpc.KVStub(self._channel()).Txn(request, timeout=self._timeout_s))
        return bool(answer.succeeded)

    async def _call(self, call: Any) -> Any:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error

    async def _first(self, call: Any) -> Any:
        try:
            async for answer in call:
                return answer
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from error
        finally:
            call.cancel()
        raise self._unavailable("no answer", None)

    def _translated(self, error: grpc.aio.AioRpcError) -> EtcdError:
        if error.code() in _REFUSED:
            advice = f"give the user of etcd_certificate read and write rights below the prefix {KEY_PREFIX}"
            return EtcdRefused(self.endpoint, error.details() or error.code().name, advice)
        return self._unavailable(error.details() or error.code().name, error)

    def _unavailable(self, detail: str, error: grpc.aio.AioRpcError | None) -> EtcdUnavailable:
        advice = "see that a majority of its members run and that etcd_endpoints names them (`covey doctor` tries each)"
        if any(sign in detail.lower() for sign in _SIGNS_OF_TLS):
            advice = "check etcd_ca, etcd_certificate and etcd_key against that member's certificates"
        elif error is not None and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            advice = "its database is full: compact and defragment it, then `etcdctl alarm disarm`"
        else:
            files = "set etcd_ca" if self._credentials is None else "check etcd_ca and etcd_certificate"
            advice += f"; where they want TLS, {files}"
        return EtcdUnavailable(self.endpoint, detail, advice)


async def _once(request: Any) -> AsyncIterator[Any]:
    yield request


def _held(entry: Any, read_at: int) -> Held:
    node_id = NodeId(entry.value.decode(errors="replace"))
    return Held(node_id, int(entry.lease), int(entry.create_revision), int(read_at))


def channel_credentials(ca: Path | None, certificate: Path | None, key: Path | None) -> grpc.ChannelCredentials | None:
    """From PEM files; None without `ca`: no TLS. Raises EtcdFilesError."""
    if ca is None:
        return None
    read: list[bytes | None] = []
    for path in (ca, key, certificate):
        try:
            read.append(None if path is None else path.read_bytes())
        except OSError as error:
            raise EtcdFilesError(f"cannot read {path}: {error.strerror}") from None
    return grpc.ssl_channel_credentials(*read)


def _timed_out(error: grpc.aio.AioRpcError) -> bool:
    """etcd counts the deadline, too, and where it is first it says so in words, under UNKNOWN."""
    told = error.code() is grpc.StatusCode.UNKNOWN and error.details() == "context deadline exceeded"
    return told or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
