"""Who may do what at the HTTP edge: keys, loopback, browsers.

Loopback needs no key, but a web page open in the user's browser reaches loopback too. Without a key, therefore, the
Host must be a name of this machine (stops DNS rebinding) and an Origin, which browsers always send with a cross-site
POST, must be this server's own or one that the configuration allows. Names that anybody on the network can announce
(`*.local`) or a search domain can supply (a bare word) are no names of this machine unless it bears them.

Administration is for the Unix socket alone: whoever can invite a machine can read the pool's prompts, and loopback is
open to every user of the machine and to every program that can be talked into making a request.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from covey_gateway.core.errors import forbidden, key_needed
from covey_gateway.core.keys import KeyRing, bearer_key
from covey_gateway.core.pages import Access
from covey_mesh.core.frozen import frozen

LOOPBACK_NAMES = frozenset({"localhost", "host.docker.internal", "host.containers.internal"})
"""Names that resolve to this machine by rule; the last two are the host's names inside containers."""

HOSTS_REMEMBERED = 256


@frozen
class Caller:
    """What a request says of its sender. `local`: loopback peer or Unix socket; `unix` the latter alone."""

    local: bool
    unix: bool
    host: str = ""
    origin: str = ""
    authorization: str = ""
    x_api_key: str = ""


class AccessPolicy:
    def __init__(
        self,
        keys: KeyRing,
        key_on_loopback: bool = False,
        trusted_hosts: tuple[str, ...] = (),
        cors_origins: tuple[str, ...] = (),
    ) -> None:
        self._keys = keys
        self._key_on_loopback = key_on_loopback
        self._trusted_hosts = frozenset(host.lower() for host in trusted_hosts)
        self._origins = frozenset(cors_origins)

    def admit(self, access: Access, caller: Caller) -> str:
        """The user's name ("" for a keyless local one). Raises GatewayError 401 or 403."""
        if access is Access.OPEN:
            return ""
        key = bearer_key(caller.authorization, caller.x_api_key)
        user = self._keys.user_of(key) if key else None
        if access is Access.LOCAL and not caller.unix:
            raise forbidden("This is done over the agent's own socket alone; run the covey command on the machine.")
        if user is not None:
            return user
        if not caller.local or (self._key_on_loopback and not caller.unix):
            raise key_needed(bool(key))
        if not caller.unix:
            self._refuse_foreign_pages(caller)
        return ""

    def cors_origin(self, origin: str) -> str:
        """The value of Access-Control-Allow-Origin, or "" where there is to be none."""
        if not origin or not self._origins:
            return ""
        return origin if "*" in self._origins or origin in self._origins else ""

    def _refuse_foreign_pages(self, caller: Caller) -> None:
        if caller.host and not (is_own_name(caller.host) or host_name(caller.host) in self._trusted_hosts):
            raise forbidden(
                f"Without a key this address answers only under its own names, not `{caller.host[:100]}`. "
                "Add the name to trusted_hosts or send a key."
            )
        origin = caller.origin
        if origin and not self.cors_origin(origin) and origin.partition("://")[2].lower() != caller.host.lower():
            raise forbidden("Pages of another site may not use this endpoint. Add their origin to cors_origins.")


def host_name(host: str) -> str:
    """A Host header without its port, lower-case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


@lru_cache(maxsize=HOSTS_REMEMBERED)
def is_own_name(host: str) -> bool:
    """True for IP addresses and the names of loopback: what no other machine's name server can redirect here."""
    name = host_name(host).rstrip(".")
    if name in LOOPBACK_NAMES or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
