"""The covey command with a wrong time of day: what to add, in seconds, is read from the file named first each time."""

from __future__ import annotations

import sys
import time
from pathlib import Path

_real = time.time
_shift = Path(sys.argv.pop(1))


def shifted() -> float:
    return _real() + float(_shift.read_text() or "0")


if __name__ == "__main__":
    # Before anything of covey is imported, which takes a reference.
    time.time = shifted
    from covey.cli import main

    main()
