"""Sans-IO: filter, score, pick, queue, prefix index, decisions."""
