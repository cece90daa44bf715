"""What all services have in common: rights, paths, bodies, numbers of pages, and errors in plone.restapi's form."""

from collections.abc import Iterable
from collective.zcasync.exceptions import QueueNotFound
from collective.zcasync.jsonvalues import fit
from collective.zcasync.jsonvalues import is_json
from collective.zcasync.jsonvalues import Misfit
from collective.zcasync.jsonvalues import SHOWN
from collective.zcasync.monitorrows import LAST_SKIP
from collective.zcasync.ploneapp.rights import Rights
from collective.zcasync.ploneapp.sites import connection_of
from collective.zcasync.queue import get_queues
from collective.zcasync.queues import shown_queue
from collective.zcasync.queues import stored_queue
from collective.zcasync.readable import text_of
from collective.zcasync.restapi.errors import answer_to
from collective.zcasync.restapi.errors import KNOWN
from datetime import datetime
from functools import cached_property
from plone.protect.authenticator import check
from plone.protect.interfaces import IDisableCSRFProtection
from plone.restapi.services import Service
from typing import Any
from urllib.parse import quote
from urllib.parse import urlencode
from zExceptions import BadRequest
from zExceptions import Forbidden
from zExceptions import NotFound
from zExceptions import Unauthorized
from zope.i18n import translate
from zope.interface import alsoProvides
from zope.interface import implementer
from zope.publisher.interfaces import IPublishTraverse

import json
import logging
import transaction

logger = logging.getLogger("collective.zcasync.events")

#: Bytes of a body: what goes into a job has its own, larger limit, for puts from code.
MOST_BYTES = 1_000_000

#: Items of one page, unless ``b_size`` says otherwise, and at most.
PAGE, LARGEST_PAGE = 25, 500

#: Where the last page with a number begins: for each the jobs before it are looked at. The list goes on without.
LAST_START = 10_000

#: Seconds after which it is worth while to ask what became of a job.
RETRY_AFTER = 1

#: Methods that no form and no script of another site can send without being asked for leave before.
NOT_FORGED = ("PATCH", "PUT", "DELETE")


@implementer(IPublishTraverse)
class JobsService(Service):
    """The base of the services. ``name``: what follows the site's URL; ``most``: parts of the path behind it."""

    name = ""
    most = 0
    context: Any
    request: Any

    def __init__(self, context: Any, request: Any) -> None:
        super().__init__(context, request)
        self.path: list[str] = []

    def publishTraverse(self, request: Any, name: str) -> "JobsService":
        """Take the rest of the path."""
        self.path.append(name)
        return self

    def render(self) -> Any:
        """Answer; an error that one of us has raised undoes what was changed, and is told with the status that fits.

        Not left to the publisher: it would replace the message of what was not found.
        """
        try:
            if len(self.path) > self.most:
                raise NotFound(f"There is nothing at {self.said()!r}.")
            answer = super().render()
            if self.request.method != "GET":
                logger.info("%s %r over REST, on request of %s", self.request.method, self.said(), self.rights.user)
            return answer
        except KNOWN as error:
            transaction.doom()
            status, body = answer_to(error)
            self.request.response.setStatus(status)
            self.request.response.setHeader("Content-Type", self.content_type)
            return json.dumps(body, indent=2, sort_keys=True)

    def said(self) -> str:
        """The service and the rest of its path."""
        return "/".join([self.name, *self.path])

    # Rights

    @cached_property
    def rights(self) -> Rights:
        """What the user may do."""
        return Rights(self.context)

    def demand(self, allowed: bool, what: str) -> None:
        """Unauthorized, which is 401, unless the user is allowed to do that."""
        if not allowed:
            raise Unauthorized(f"You are not allowed to {what}.")

    def permit_writing(self) -> None:
        """Forbidden for what another site could have made the user's browser send; call it before anything is changed.

        Such a site cannot send JSON, a token of its own, PATCH or DELETE without being asked for leave (CORS).
        """
        header = self.request.getHeader
        kind = (header("Content-Type") or "").partition(";")[0].strip().lower()
        bearer = (header("Authorization") or "").lower().startswith("bearer ")
        if self.request.method not in NOT_FORGED and kind != "application/json" and not bearer:
            try:
                check(self.request)
            except Forbidden:
                raise Forbidden(
                    "A POST must have the header Content-Type: application/json, or a token in Authorization: Bearer or"
                    " X-CSRF-TOKEN, so that no other site can have it sent."
                ) from None
        alsoProvides(self.request, IDisableCSRFProtection)

    # What is asked for

    @cached_property
    def connection(self) -> Any:
        """To the database with the queues of the site."""
        return connection_of(self.context)

    @cached_property
    def queues(self) -> Any:
        """The queues of the site; QueueNotFound if there are none yet."""
        found = get_queues(self.connection)
        if found is None:
            raise QueueNotFound("This database has no queues yet: install the add-on in the site.")
        return found

    def queue(self, name: str) -> Any:
        """A queue by its name in URLs; QueueNotFound, naming those that exist, if there is none."""
        stored = stored_queue(name)
        if stored not in self.queues or not name:
            known = ", ".join(map(shown_queue, self.queues))
            raise QueueNotFound(f"There is no queue {name!r}; there are: {known}.")
        return self.queues[stored]

    @cached_property
    def body(self) -> dict[str, Any]:
        """The JSON object that was sent; an empty one if nothing was."""
        raw = self.request.get("BODY") or b""
        if len(raw) > MOST_BYTES:
            raise BadRequest(f"The body has {len(raw)} bytes; at most {MOST_BYTES} are taken.")
        try:
            found = json.loads(raw or "{}")
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"The body is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise BadRequest(f"The body must be an object, not {text_of(found, SHOWN)}.")
        return found

    def take(self, name: str, *kinds: type, required: bool = False, default: Any = None) -> Any:
        """A value of the body, of one of these kinds (``NoneType`` for null); BadRequest for others."""
        if name not in self.body:
            if required:
                raise BadRequest(f"{name} is missing; it must be {_words(kinds)}.")
            return default
        value = self.body[name]
        if type(value) not in kinds or isinstance(value, str) and not is_json(value):
            raise BadRequest(f"{name}: {text_of(value, SHOWN)} is not allowed; it must be {_words(kinds)}.")
        return value

    def given(self, *names: str) -> dict[str, Any]:
        """Those of these values that the body has, to be checked by whoever takes them."""
        return {name: self.body[name] for name in names if name in self.body}

    def refuse_others(self, *known: str) -> None:
        """BadRequest if the body says what is not understood."""
        for name in self.body:
            if name not in known:
                raise BadRequest(
                    f"{text_of(name, SHOWN)} is not understood; a body may have: {', '.join(known) or 'nothing'}."
                )

    def query(self, name: str) -> str | None:
        """A value of the query string; BadRequest if it is given more than once."""
        value = self.request.form.get(name)
        if value is not None and not isinstance(value, str):
            raise BadRequest(f"{name}: {text_of(value, SHOWN)} is not allowed; it must be one text.")
        return value or None

    def number(self, name: str, default: int, most: int) -> int:
        """A whole number from 0 of the query string."""
        value = self.query(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdecimal() and len(value) < 12 and int(value) <= most):
            raise BadRequest(f"{name}: {text_of(value, SHOWN)} is not allowed; it must be a number from 0 to {most}.")
        return int(value)

    def skip(self) -> int:
        """How many entries of a list are to be left out, as the link to a next page says."""
        return self.number("skip", 0, LAST_SKIP)

    def asked_queue(self) -> str | None:
        """The stored name of the queue of the query string; None if none is named."""
        asked = self.query("queue")
        return None if asked is None else str(self.queue(asked).name)

    # What is answered

    def listed(self, items: Iterable[Any]) -> dict[str, Any]:
        """A list that is told whole."""
        found = list(items)
        return {"@id": self.url(), "items": found, "items_total": len(found)}

    def made(self, url: str) -> None:
        """Answer with 201: what was asked for is there now."""
        self._answer_at(201, url)

    def accepted(self, url: str) -> None:
        """Answer with 202: a job does it, of which more is told there in a while."""
        self._answer_at(202, url)
        self.request.response.setHeader("Retry-After", str(RETRY_AFTER))

    def _answer_at(self, status: int, url: str) -> None:
        self.request.response.setStatus(status)
        self.request.response.setHeader("Location", url)

    def url(self, *parts: str, service: str = "") -> str:
        """URL of something below this service, or below another one."""
        return "/".join([self.context.absolute_url(), service or self.name, *(quote(part, safe="@") for part in parts)])

    def translated(self, text: Any) -> str:
        """A text in the reader's language."""
        return str(translate(text, context=self.request))

    def batching(self, start: int, size: int, more: bool, skip: int | None = None) -> dict[str, str]:
        """Links to the other pages, as plone.restapi gives them; a list that is not counted has no last page.

        ``skip``: where the next page goes on, if this one has looked at as much as it may or is the last with a number.
        """
        given = {name: value for name, value in self.request.form.items() if isinstance(value, str)}

        def page(**where: int) -> str:
            return f"{self.url(*self.path)}?{urlencode({**given, 'b_size': size, **where})}"

        links = {"@id": page(b_start=start), "first": page(b_start=0, skip=0)}
        if more and start + size <= LAST_START:
            links["next"] = page(b_start=start + size)
        elif skip is not None:
            links["next"] = page(b_start=0, skip=skip)
        if start:
            links["prev"] = page(b_start=max(0, start - size))
        return links


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """BadRequest unless the value is one of those that are allowed."""
    known = tuple(allowed)
    if value not in known:
        raise BadRequest(
            f"{name}: {text_of(value, SHOWN)} is not allowed; it must be one of {', '.join(map(str, known))}."
        )


def moment_of(name: str, text: Any) -> datetime:
    """The time that an ISO text with an offset says; BadRequest for others."""
    try:
        found: datetime = fit(datetime, text)
    except Misfit as misfit:
        raise BadRequest(f"{name}: {misfit}.") from None
    return found


def _words(kinds: tuple[type, ...]) -> str:
    known = {
        str: "a text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        list: "a list",
        dict: "an object",
        type(None): "null",
    }
    return " or ".join(known[kind] for kind in kinds)
