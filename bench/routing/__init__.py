"""Simulation of a pool that serves a public trace: `make bench-routing TRACE=FILE`."""
