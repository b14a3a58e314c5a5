"""Owns the engines and the GPUs of one machine; has the last word on admission."""
