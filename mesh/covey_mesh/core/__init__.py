"""Sans-IO: values and decisions. No clock, no randomness, no sockets, no wire types."""
