"""One thread for small writes, so that an fsync never stalls the event loop. In order, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class DiskWorker:
    """Runs writes in the order given. `close` waits for what is queued (a few small files)."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="covey-disk")

    def run(self, write: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """`done` is called on the running loop's thread with the error, if any; not at all if the loop has closed."""
        loop = asyncio.get_running_loop()

        def report(future: Future[None]) -> None:
            error = future.exception()
            assert error is None or isinstance(error, Exception)
            if not loop.is_closed():
                loop.call_soon_threadsafe(done, error)

        self._executor.submit(write).add_done_callback(report)

    def close(self) -> None:
        self._executor.shutdown(wait=True)
