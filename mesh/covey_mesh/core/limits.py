"""Named bounds of what crosses a link: nothing on the wire is larger, nothing behind it grows further."""

from __future__ import annotations

PROTOCOL_VERSION = 1
"""Spoken by this build; a peer is refused only if the ranges in Hello do not overlap."""

REQUEST_BODY_BYTES_MAX = 32 * 1024 * 1024
"""Largest client request (images as data URLs are the large ones)."""

BATCH_BYTES_MAX = 40 * 1024 * 1024
"""Largest gRPC message between machines: one body of the largest size and its envelope."""

DATA_CHUNK_BYTES_MAX = 64 * 1024
"""Largest piece of an answer in one item."""

STREAM_WINDOW_BYTES = 256 * 1024
"""Bytes of one answer that may be unread between a node and a client."""

STREAMS_PER_LINK_MAX = 4096
"""Attempts in flight from one machine to another; the next one is refused as RESOURCE_EXHAUSTED."""

LINK_BACKLOG_BYTES_MAX = 64 * 1024 * 1024
"""Bytes waiting to be written to one link; a peer that reads slower than that is cut off."""

PEERS_MAX = 4096
"""Machines remembered; the longest unseen is forgotten first."""

DECISIONS_KEPT = 1000
"""Decision records kept on each machine, oldest dropped first."""
