"""Adapters that feed the scheduler from links and carry its answers back."""
