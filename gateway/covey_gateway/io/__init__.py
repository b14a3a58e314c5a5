"""Adapters: HTTP/1.1 edge, gRPC front door, metrics."""
