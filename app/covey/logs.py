"""Logging of an agent: one line a record, for people on a terminal and as JSON otherwise. Quiet by default.

Records never hold a prompt, a completion or a key; what they do hold beyond the message travels in `extra`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TextIO

from covey.terminal import harmless

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, then the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        content: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str, ensure_ascii=False)


class HumanFormatter(logging.Formatter):
    """Time of day, level, message, then fields as name=value: one line, whatever a field holds."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(f"  {name}={value}" for name, value in _extra(record).items())
        said = harmless(f"{record.getMessage()}{fields}").replace("\n", "\\n")
        text = f"{moment} {record.levelname.lower():7} {record.name}: {said}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send everything to standard error in `form` ("auto", "human" or "json")."""
    target = stream or sys.stderr
    human = form == "human" or (form == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.setFormatter(HumanFormatter() if human else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("covey", "covey_mesh", "covey_node", "covey_scheduler", "covey_gateway"):
        logging.getLogger(name).setLevel(level.upper())
