"""What somebody looks for in the list of jobs, as it stands in the address of the page."""

from collective.zcasync.browser.panel import Panel
from collective.zcasync.exceptions import InvalidValueError
from collective.zcasync.interfaces import _
from collective.zcasync.jobsearch import LONGEST
from collective.zcasync.jobsearch import Search
from collective.zcasync.queues import stored_queue
from collective.zcasync.zopeapp.searchfields import FIELDS
from collective.zcasync.zopeapp.searchfields import typed
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

TIMES = {"since": _("search_since", default="From"), "until": _("search_until", default="Until")}


@dataclass(frozen=True)
class Field:
    """One field of the form."""

    name: str
    label: Any
    help: Any
    value: str


class Filter:
    """The search of one request.

    ``search``: what the engine is asked for. ``problems``: what of it could not be understood, and is left out.
    """

    def __init__(self, view: Panel) -> None:
        self.view = view
        self.form = view.request.form
        self.problems: list[str] = []
        self.search = self._search()

    def text(self, name: str) -> str:
        """One field as it was typed; tampered ones are empty."""
        return typed(self.form, name)

    @cached_property
    def query(self) -> dict[str, str]:
        """What belongs into addresses that lead to this search."""
        names = (*FIELDS, "cause", *TIMES, "queue")
        return {name: self.text(name) for name in names if self.text(name)}

    @property
    def active(self) -> bool:
        """Whether anything is looked for."""
        return bool(self.query)

    def fields(self) -> list[Field]:
        """The fields for text."""
        return [Field(name, label, help, self.text(name)) for name, (label, help) in FIELDS.items()]

    def times(self) -> list[Field]:
        """The fields for times."""
        return [Field(name, label, "", self.text(name)) for name, label in TIMES.items()]

    @cached_property
    def queue(self) -> str | None:
        """The name of the queue that is asked for; None: all."""
        name = self.text("queue")
        if not name:
            return None
        name = stored_queue(name)
        return name if self.view.installed and name in self.view.queues else None

    def _search(self) -> Search:
        found: dict[str, Any] = {name: self.text(name)[:LONGEST] for name in (*FIELDS, "cause")}
        found["object"] = self._path(found["object"])
        for name in TIMES:
            found[name] = self._time(name)
        try:
            return Search(**found)
        except InvalidValueError as error:
            self.problems.append(str(error))
            return Search()

    def _path(self, text: str) -> str:
        """The path that an address or a path in the site means."""
        if not text:
            return ""
        site = "/".join(self.view.context.getPhysicalPath())
        if "://" in text:
            try:
                return "/".join(self.view.request.physicalPathFromURL(text))
            except ValueError:
                self._complain(text)
                return site + "/" + text  # which nothing is at
        return text if self.view.all_sites or text.startswith(site) else site + "/" + text.strip("/")

    def _time(self, name: str) -> datetime | None:
        """A time in the reader's zone."""
        text = self.text(name)
        if not text:
            return None
        try:
            return self.view.local_time(text)
        except ValueError:
            self._complain(text)
            return None

    def _complain(self, text: str) -> None:
        said = _("search_not_understood", default="Not understood: ${text}", mapping={"text": text[:80]})
        self.problems.append(self.view.translate(said))
