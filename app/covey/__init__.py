"""covey: the GPUs already standing in an office, as one AI endpoint."""

__version__ = "0.1.0"
