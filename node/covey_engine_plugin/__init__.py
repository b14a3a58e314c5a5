"""Loaded by vLLM in its own processes (never by the agent)."""
