"""What several benches share; none of it is a bench."""
