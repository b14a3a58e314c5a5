"""The covey command."""


def main() -> None:
    """Entry point."""
