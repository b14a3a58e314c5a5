"""Publishes the pool's name on a host; "withdraw" and "publish" on its input."""

from __future__ import annotations

import asyncio
import sys

from tests.lan.programs.lines import commands, emit

from covey_mesh.io.interfaces import InterfaceMonitor
from covey_mesh.io.pool_name import PoolName


async def main(pool_name: str) -> None:
    monitor = InterfaceMonitor()
    monitor.start()
    name = PoolName(pool_name, monitor)
    name.publish()
    emit("published", host=name.host)
    async for command in commands():
        if command["command"] == "withdraw":
            name.withdraw()
        else:
            name.publish()
        emit(command["command"])
    await name.stop()
    await monitor.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
