"""What the demo imports: the descriptions of the Python distributions installed beside it. No Plone in here."""

from collections.abc import Mapping
from dataclasses import dataclass
from docutils.core import publish_parts
from docutils.utils import SystemMessage
from email.message import Message
from html import escape
from importlib.metadata import distribution
from importlib.metadata import distributions
from importlib.metadata import PackageNotFoundError
from markdown import markdown
from typing import Any

import nh3
import re

#: How docutils reads a README: nothing from the disk, no raw HTML, and stricter than the package index is. Whatever
#: docutils remarks upon, such as a link target that is given twice, ends the rendering.
STRICT: Mapping[str, Any] = {
    "_disable_config": True,
    "file_insertion_enabled": False,
    "halt_level": 1,
    "raw_enabled": False,
    "report_level": 1,
    "warning_stream": False,
}

LICENCE_CLASSIFIER = re.compile(r"^License :: (?:OSI Approved :: )?(.+)$")


class NoDescription(Exception):
    """The distribution says nothing that could be made a page: the demo expects some of these."""


@dataclass(frozen=True)
class Description:
    """One distribution, ready to be shown. ``html`` is its README, safe to serve."""

    name: str
    version: str
    summary: str
    licence: str
    classifiers: tuple[str, ...]
    html: str


def names() -> list[str]:
    """The names of all installed distributions, each once however often it is found on the path."""
    return sorted({canonical(found.metadata["Name"]) for found in distributions() if found.metadata.get("Name")})


def canonical(name: str) -> str:
    """The one spelling of a distribution's name; also the id of its page."""
    return re.sub(r"[-_.]+", "-", name).lower()


def describe(name: str) -> Description:
    """Read the metadata of an installed distribution.

    :raises NoDescription: it is not installed, has no README, or one that cannot be rendered.
    """
    try:
        metadata: Any = distribution(name).metadata
    except PackageNotFoundError:
        raise NoDescription(f"{name} is not installed here") from None
    return Description(
        name=metadata["Name"],
        version=metadata["Version"],
        summary=(metadata.get("Summary") or "").strip(),
        licence=_licence(metadata),
        classifiers=tuple(metadata.get_all("Classifier") or ()),
        html=_readme(metadata),
    )


def _licence(metadata: Message) -> str:
    """The licence in few words: the SPDX expression, else the classifiers, else the first line of the old field."""
    if expression := metadata.get("License-Expression"):
        return str(expression)
    matches = (LICENCE_CLASSIFIER.match(classifier) for classifier in metadata.get_all("Classifier") or ())
    if named := [match.group(1) for match in matches if match and match.group(1) != "OSI Approved"]:
        return ", ".join(named)
    first = (metadata.get("License") or "").strip().partition("\n")[0]
    return first[:60] if first and first != "UNKNOWN" else "not stated"


def _readme(metadata: Message) -> str:
    """The README as safe HTML. It is a stranger's text, so it goes through nh3 whatever it was written in."""
    text = str(metadata.get_payload() or metadata.get("Description") or "").strip()
    if text in ("", "UNKNOWN"):
        raise NoDescription(f"{metadata['Name']} has no README")
    content_type = (metadata.get("Description-Content-Type") or "text/x-rst").partition(";")[0].strip()
    if content_type == "text/markdown":
        html = markdown(text, extensions=["fenced_code", "tables"])
    elif content_type == "text/x-rst":
        html = _restructured(metadata["Name"], text)
    else:
        html = f"<pre>{escape(text)}</pre>"
    return nh3.clean(html)


def _restructured(name: str, text: str) -> str:
    try:
        return str(publish_parts(text, writer="html5", settings_overrides=dict(STRICT))["html_body"])
    except SystemMessage as remark:
        # "<string>:12: (INFO/1) Duplicate implicit target name: ..." and then the lines concerned
        _, line, rest = str(remark).partition("\n")[0].split(":", 2)
        reason = re.sub(r"^\s*\([A-Z]+/\d\)\s*", "", rest)
        raise NoDescription(f"{name} has bad markup: line {line}: {reason}") from None
