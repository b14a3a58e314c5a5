"""Adapters: zeroconf, gRPC, TLS, disk. Thin; every decision is made in core."""
