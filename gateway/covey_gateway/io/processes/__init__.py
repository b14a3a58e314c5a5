"""Several gateway processes of one agent: what the agent does for them, and what each of them does."""
