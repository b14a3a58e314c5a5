"""Resolves host names through python-zeroconf, a second implementation of mDNS: "resolve" prints all addresses."""

from __future__ import annotations

import asyncio

from tests.lan.programs.lines import commands, emit
from zeroconf import AddressResolverIPv4
from zeroconf.asyncio import AsyncZeroconf


async def main() -> None:
    opened = AsyncZeroconf()
    await opened.zeroconf.async_wait_for_start()
    emit("started")
    async for command in commands():
        host = command["host"]
        await AddressResolverIPv4(host).async_request(opened.zeroconf, 1500)
        # Answers of several machines come apart: give the later ones their 120 ms.
        await asyncio.sleep(0.4)
        resolver = AddressResolverIPv4(host)
        resolver.load_from_cache(opened.zeroconf)
        emit("resolve", addresses=sorted(resolver.parsed_addresses()))
    await opened.async_close()


if __name__ == "__main__":
    asyncio.run(main())
