"""Plone's layers as fixtures: each is set up once and torn down before another family's, as zope.testrunner does it.

Layers replace the global registry and the database of the process, so two that do not build on one another must not be
up at the same time; and tests that need none, the engine's above all, run before any is set up.
"""

from collections.abc import Iterable
from pytest_plone import fixtures_factory
from typing import Any
from zope.pytestlayer import fixture

import pytest


def layer_fixtures(layers: Iterable[tuple[Any, str]]) -> dict[str, Any]:
    """For the globals of a conftest: a fixture for each layer under its name, and all that they build on.

    The layers of several folders may share bases. Each folder gets fixtures of its own for these, because pytest does
    not look for them in another one.
    """
    fixture.LAYERS.clear()
    fixture.LAYERS[object] = {}
    return fixtures_factory(tuple(layers), keep_session=False)


def layer_of(item: pytest.Item) -> Any:
    """The layer that a test asks for, by itself or through other fixtures; None if it needs none."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return None
    found = []
    for name in info.names_closure:
        definitions = info.name2fixturedefs.get(name, ())
        # The generated function of each layer has it among its globals.
        globs = getattr(definitions[-1].func, "__globals__", {}) if definitions else {}
        if "function_fixture" in globs and globs["layer"] not in found:
            found.append(globs["layer"])
    specific = [layer for layer in found if not any(layer in bases(other) for other in found)]
    if len(specific) > 1:
        raise pytest.UsageError(f"{item.nodeid} asks for two layers: {specific}. Split it, or make one of them.")
    return specific[0] if specific else None


def bases(layer: Any) -> list[Any]:
    """All that a layer builds on."""
    return [each for base in layer.__bases__ for each in (base, *bases(base)) if base is not object]
