"""A Plone site in an instance of its own for each test, copied from one that is made once."""

from collections.abc import Iterator
from pathlib import Path
from plonesite import PloneSite

import instance as instances
import pytest


@pytest.fixture(scope="session")
def made_site(tmp_path_factory: pytest.TempPathFactory) -> instances.Instance:
    instance = instances.make_instance(tmp_path_factory.mktemp("made") / "instance")
    instances.create_site(instance)
    return instance


@pytest.fixture
def site(made_site: instances.Instance, tmp_path: Path) -> Iterator[PloneSite]:
    site = PloneSite.copy(made_site, tmp_path / "instance", paths=(Path(__file__).parent,))
    yield site
    site.close()
