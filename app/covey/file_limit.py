"""The number of files and sockets that this process may have open."""

from __future__ import annotations

import resource

FILES_WANTED = 65_536
"""Two sockets for each stream that crosses this machine, with room for engines and links."""


def raise_file_limit() -> int:
    """Raise the soft limit towards FILES_WANTED as far as the hard limit allows; returns the limit now in force.

    The usual soft limit is 1,024, which a few hundred streams exhaust.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft
