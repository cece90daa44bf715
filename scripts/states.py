"""Draw the picture and the table in docs/concepts/states.md from the engine's own table of transitions.

Usage: .venv/bin/python scripts/states.py
"""

from collective.zcasync.interfaces import CALLBACKS
from collective.zcasync.interfaces import COMPLETED
from collective.zcasync.interfaces import NEW
from collective.zcasync.states import Transition
from collective.zcasync.states import TRANSITIONS
from pathlib import Path

import re

PAGE = Path(__file__).parent.parent / "docs" / "concepts" / "states.md"

#: What the page has of the table: a Mermaid picture, then a table.
PICTURE = re.compile(r"^```mermaid\n.*?^```$", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"^\| from \|.*?(?=^[^|]|\Z)", re.MULTILINE | re.DOTALL)


def key(status: str) -> str:
    """A status as a name: "new", "callbacks"."""
    word = str(status).removesuffix("-status")
    return "callbacks" if word == "callback" else word


def name_of(step: Transition) -> str:
    """A step as a name: "new_to_pending"."""
    return f"{key(step.before)}_to_{key(step.after)}"


def picture() -> str:
    """The state diagram, in Mermaid's language. The two ends are one arrow: callbacks tell them apart."""
    statuses = dict.fromkeys(status for step in TRANSITIONS for status in (step.before, step.after))
    lines = ["stateDiagram-v2", "    direction TB", "    state end <<choice>>"]
    lines += [f"    {key(status)}: {status.default}" for status in statuses]
    lines += [f"    [*] --> {key(NEW)}"]
    names = {(step.before, step.after): step.name for step in TRANSITIONS}
    for (before, after), name in names.items():
        if name == names.get((before, CALLBACKS)) == names.get((before, COMPLETED)):
            lines += [f"    {key(before)} --> end: {name}"] if after is COMPLETED else []
        else:
            lines += [f"    {key(before)} --> {key(after)}: {name}"]
    lines += [f"    end --> {key(CALLBACKS)}: with callbacks", f"    end --> {key(COMPLETED)}: without"]
    return "\n".join(("```mermaid", *lines, "```"))


def table() -> str:
    """The same as rows, with the whole sentences."""
    rows = [f"| {step.before.default} | {step.after.default} | {step.when} |" for step in TRANSITIONS]
    return "\n".join(("| from | to | when |", "| --- | --- | --- |", *rows, ""))


def filled(text: str) -> str:
    """The page's text with the picture and the table of today."""
    text = PICTURE.sub(lambda _: picture(), text, count=1)
    return TABLE.sub(lambda _: table(), text, count=1)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
