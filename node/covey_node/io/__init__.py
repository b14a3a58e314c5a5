"""Adapters: vLLM processes, NVML, Unix sockets."""
