"""Small Zope instances without Plone, which start in a second, and real processes that serve them."""

from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from zopeinstance import Instance

import pytest


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """An instance with the Zope ring loaded, and the dispatcher on. Whatever it started is gone at the end."""
    made = Instance(tmp_path / "instance")
    yield made
    made.close()


@pytest.fixture
def zope_conf(instance: Instance) -> Callable[..., Path]:
    """Write a zope.conf with these lines at its end, and return its path."""

    def write(*lines: str) -> Path:
        instance.write_zope_conf(*lines)
        return instance.zope_conf

    return write
