"""Adapters: zeroconf, gRPC, TLS, disk. Thin; every decision is made in core."""

import os

# gRPC's C core writes a line to stderr for every failed handshake: a port scanner could fill the disk, and people
# would take it for covey's log. It reads this when its first channel or server is made.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
