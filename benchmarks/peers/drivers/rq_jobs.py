"""The jobs of RQ, which finds them by the name of their module."""

from counting import append


def noop() -> None:
    """Nothing to do."""


def long(number: int) -> None:
    append(number)
