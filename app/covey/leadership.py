"""Which source of leadership an agent uses: the pool's own election, or etcd where `etcd_endpoints` is set.

The only place that imports the etcd client, and only then: it is an optional extra. Not here: what a source does.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from covey.config import Configuration
from covey.errors import UserError
from covey_mesh.core.leadership_source import LeadershipSource, OwnElection
from covey_mesh.core.timing import LAN_ETCD
from covey_mesh.io.discovery import boottime_s

if TYPE_CHECKING:
    from covey_mesh.io.etcd_client import EtcdClient

NO_SUCH_POOL = "00000000"
"""Whose key `covey doctor` reads where this machine is in no pool."""


def leadership_source(configuration: Configuration, pool_id: str) -> LeadershipSource:
    """Raises UserError where etcd is asked for and cannot be used from here; whether it answers is seen later."""
    if not configuration.etcd_endpoints:
        return OwnElection()
    client = _client(configuration, configuration.etcd_endpoints)
    from covey_mesh.io.etcd_leadership import EtcdLeadership

    return EtcdLeadership(client, pool_id, boottime_s, random.random)


def etcd_problems(configuration: Configuration, pool_id: str = NO_SUCH_POOL) -> dict[str, tuple[str, str]]:
    """Each configured endpoint, and what is wrong with it and what to do about that; two empty texts: it answers."""
    try:
        return asyncio.run(_try_each(configuration, pool_id))
    except UserError as error:
        return dict.fromkeys(configuration.etcd_endpoints, (str(error), error.next_step))


async def _try_each(configuration: Configuration, pool_id: str) -> dict[str, tuple[str, str]]:
    endpoints = configuration.etcd_endpoints
    tries = [_try(configuration, one, pool_id) for one in endpoints]
    return dict(zip(endpoints, await asyncio.gather(*tries), strict=True))


async def _try(configuration: Configuration, endpoint: str, pool_id: str) -> tuple[str, str]:
    client = _client(configuration, (endpoint,))
    from covey_mesh.io.etcd_client import EtcdError
    from covey_mesh.io.etcd_leadership import leader_key

    try:
        await client.read(leader_key(pool_id))
    except EtcdError as error:
        return str(error), error.advice
    finally:
        await client.close()
    return "", ""


def _client(configuration: Configuration, endpoints: tuple[str, ...]) -> EtcdClient:
    try:
        from covey_mesh.io.etcd_client import EtcdClient, EtcdFilesError, channel_credentials
    except ImportError:
        raise UserError(
            "etcd_endpoints is set, and the etcd client is not installed", "run: pip install 'covey[etcd]'"
        ) from None
    try:
        credentials = channel_credentials(configuration.etcd_ca, configuration.etcd_certificate, configuration.etcd_key)
    except EtcdFilesError as error:
        raise UserError(str(error), "check etcd_ca, etcd_certificate and etcd_key, and who may read them") from None
    return EtcdClient(endpoints, credentials, LAN_ETCD.call_timeout_s)
