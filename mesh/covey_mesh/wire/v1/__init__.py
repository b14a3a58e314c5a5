"""Generated from proto/covey_mesh/wire/v1."""
