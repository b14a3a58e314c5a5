"""Heads of whole answers that the HTTP parser has read before, so that the next one alike need not be parsed.

An engine's heads differ from answer to answer in nothing but the length of the body, within one second (there is a
date in them). So a head is known by the bytes before and after the digits of its content-length: two heads that differ
only there are read alike. Whatever is not known is the parser's to judge, and what is learned it has judged well.

Not here: parsing, connections (covey_node.io.engine_connection).
"""

from __future__ import annotations

HEADS_MAX = 32
"""Kept at most, then all are forgotten: a few kinds of answers, and a new date each second."""

HEAD_BYTES_MAX = 4096
LENGTH_DIGITS_MAX = 9

_LENGTH = b"\r\ncontent-length: "
_END = b"\r\n\r\n"


class KnownHead:
    """What the parser made of it."""

    __slots__ = ("content_type", "retry_after_s", "status")

    def __init__(self, status: int, content_type: str, retry_after_s: int) -> None:
        self.status = status
        self.content_type = content_type
        self.retry_after_s = retry_after_s


class KnownHeads:
    """Of one engine."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], KnownHead] = {}

    def read(self, answer: bytes) -> tuple[KnownHead, bytes] | None:
        """(head, body), if these bytes are exactly one whole answer with a known head and a body."""
        cut = _cut(answer)
        if cut is None:
            return None
        before, digits, after, body_at = cut
        known = self._known.get((before, after))
        if known is None or not digits.isdigit() or len(answer) - body_at != int(digits):
            return None
        return known, answer[body_at:]

    def learn(self, answer: bytes, head: KnownHead, body: bytes) -> None:
        """The parser has read exactly these bytes as exactly this, and the connection stays open."""
        cut = _cut(answer)
        if cut is None:
            return
        before, digits, after, body_at = cut
        if digits == b"%d" % len(body) and answer[body_at:] == body:
            if len(self._known) >= HEADS_MAX:
                self._known.clear()
            self._known[before, after] = head


def _cut(answer: bytes) -> tuple[bytes, bytes, bytes, int] | None:
    """(head before its length's digits, these, head after them, where the body begins); None where there is no such
    head, or no body."""
    digits_at = answer.find(_LENGTH, 0, HEAD_BYTES_MAX) + len(_LENGTH)
    digits_end = answer.find(b"\r", digits_at, digits_at + LENGTH_DIGITS_MAX + 1)
    head_end = answer.find(_END, digits_end, HEAD_BYTES_MAX)
    body_at = head_end + len(_END)
    if digits_at < len(_LENGTH) or digits_end < 0 or head_end < 0 or body_at == len(answer):
        return None
    return answer[:digits_at], answer[digits_at:digits_end], answer[digits_end:head_end], body_at
