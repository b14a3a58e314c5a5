"""Sans-IO: engine lifecycle, capacity, admission, simulated batching."""
