"""Sans-IO: the request state machine, routing fields, leaderless choice, error shapes."""
