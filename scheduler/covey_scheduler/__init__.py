"""Decides which machine serves a request; active only where the leader is."""
