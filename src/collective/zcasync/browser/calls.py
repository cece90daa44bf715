"""Calls of a traceback or a stack, for people: own code open, that of installed packages folded."""

from collections.abc import Callable
from collections.abc import Sequence
from collective.zcasync.interfaces import _
from collective.zcasync.jobdetail import Frame
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import os

#: Folders of installed packages that are only the first half of a package's name.
NAMESPACES = ("collective", "plone", "Products", "zope", "z3c", "zc")


@dataclass(frozen=True)
class FrameLine:
    """One call of the traceback."""

    place: str
    source: str


@dataclass(frozen=True)
class Calls:
    """Calls that stand together: those of installed packages are folded."""

    folded: bool
    frames: tuple[FrameLine, ...]
    summary: str = ""


def folded(frames: Sequence[Frame], translate: Callable[[Any], str]) -> list[Calls]:
    """The calls in pieces. If all are of installed packages, none is folded."""
    fold = not all(frame.framework for frame in frames)
    return [
        _calls(framework and fold, list(group), translate)
        for framework, group in groupby(frames, key=lambda frame: frame.framework)
    ]


def _calls(hidden: bool, frames: list[Frame], translate: Callable[[Any], str]) -> Calls:
    lines = tuple(FrameLine(f"{frame.file}, {frame.line}: {frame.function}", frame.source) for frame in frames)
    names = sorted({_package(frame.file) for frame in frames})
    text = _(
        "folded_calls",
        default="Calls in ${names}: ${number}",
        mapping={"number": len(frames), "names": ", ".join(names)},
    )
    return Calls(hidden, lines, translate(text) if hidden else "")


def _package(file: str) -> str:
    """The installed package, or "Python", that a file belongs to."""
    parts = file.replace(os.sep, "/").split("/")
    for place in ("site-packages", "dist-packages"):
        if place in parts:
            inside = parts[parts.index(place) + 1 :]
            return (
                ".".join(inside[:2]) if len(inside) > 2 and inside[0] in NAMESPACES else inside[0].removesuffix(".py")
            )
    if "zcasync" in parts:
        return "collective.zcasync"
    return "Python"
