"""What the pages of Site Setup → Background jobs have in common: navigation, rights, times, links."""

from collective.zcasync import clock
from collective.zcasync.exceptions import JobNotFound
from collective.zcasync.interfaces import _
from collective.zcasync.joblists import find
from collective.zcasync.joblists import JobRow
from collective.zcasync.joblists import RUNNING
from collective.zcasync.ploneapp.pages import PAGES
from collective.zcasync.ploneapp.rights import Rights
from collective.zcasync.queue import get_queues
from collective.zcasync.zopeapp.overview import REFRESH
from collective.zcasync.zopeapp.processlines import Moment
from collective.zcasync.zopeapp.reasons import reason_text
from dataclasses import dataclass
from dataclasses import replace
from datetime import datetime
from datetime import tzinfo
from functools import cached_property
from plone import api
from plone.protect import CheckAuthenticator
from plone.protect import PostOnly
from plone.z3cform.layout import FormWrapper
from Products.Five.browser import BrowserView
from Products.Five.browser.pagetemplatefile import ViewPageTemplateFile
from typing import Any
from urllib.parse import urlencode
from z3c.form.interfaces import ActionExecutionError
from zoneinfo import ZoneInfo
from zoneinfo import ZoneInfoNotFoundError
from zope.component import getMultiAdapter
from zope.i18n import translate
from zope.interface import Invalid

import logging

logger = logging.getLogger("collective.zcasync.panel")

#: The page to which Site Setup leads.
HOME = "zcasync-overview"

#: The configlet's own name, shown above every page.
TITLE = _("panel_title", default="Background jobs")


@dataclass(frozen=True)
class Link:
    """A link of the navigation."""

    url: str
    label: str
    current: bool = False
    count: str = ""


@dataclass(frozen=True)
class Step:
    """How far a job says it is. ``percent``: None if it does not say of how much."""

    text: str
    percent: int | None
    numbers: str


class Panel:
    """Mixed into every page of the panel; wants ``context`` (the site) and ``request``."""

    context: Any
    request: Any

    #: Name of the page of the navigation to which this one belongs.
    section = ""
    description = ""

    #: The page's own script, below the site's URL.
    script = ""

    #: Seconds after which the page's content is asked for again; 0: it stays as it is.
    refresh = 0

    #: URL that is asked for then, if it is not the page's.
    refresh_from = ""

    @property
    def site_url(self) -> str:
        """URL of the site."""
        return str(self.context.absolute_url())

    @property
    def script_urls(self) -> list[str]:
        """URLs of the page's scripts."""
        return [f"{self.site_url}/{name}" for name in (self.script, REFRESH if self.refresh_every else "") if name]

    @property
    def refresh_every(self) -> int | None:
        """The same as ``refresh``, for the template; None also for the answer to a form, which would be lost."""
        return self.refresh or None if self.request.method != "POST" else None

    @property
    def rtl_url(self) -> str:
        """URL of the styles for languages from right to left; empty for others."""
        state = getMultiAdapter((self.context, self.request), name="plone_portal_state")
        return f"{self.site_url}/++resource++zcasync/rtl.css" if state.is_rtl() else ""

    def page_url(self, page: str, /, **query: Any) -> str:
        """URL of one of the panel's pages. ``query``: what it is asked for."""
        return f"{self.site_url}/@@{page}" + (f"?{urlencode(query)}" if query else "")

    def url_of_job(self, id: str, group: str | None = None, page: str = "zcasync-job") -> str:
        """URL of the page of one job; empty without an id. ``group``: its site; None: one of those whose jobs are
        shown."""
        elsewhere = self.all_sites if group is None else group != self.own_group
        return self.page_url(page, id=id, **({"all_sites": 1} if elsewhere else {})) if id else ""

    def navigation(self) -> list[Link]:
        """Links to the pages that the user may see."""
        return [
            Link(self.page_url(name), label, name == self.section)
            for name, label, permission in PAGES
            if self.rights.may(permission)
        ]

    def breadcrumbs(self) -> list[Link]:
        """The way back to Site Setup; the last one is this page."""
        links = [Link(self.page_url("overview-controlpanel"), _("site_setup", default="Site Setup"))]
        links.append(Link(self.page_url(HOME), TITLE))
        section = next((label for name, label, _permission in PAGES if name == self.section), "")
        if self.section != HOME and section != self.label:
            links.append(Link(self.page_url(self.section), section))
        if self.label != TITLE:
            links.append(Link("", self.label))
        return [*links[:-1], replace(links[-1], current=True)]

    @property
    def label(self) -> Any:
        """The page's heading."""
        return TITLE

    @cached_property
    def queues(self) -> Any:
        """The queues of the site's database, or None where nothing is installed."""
        return get_queues(self.context._p_jar)

    @property
    def installed(self) -> bool:
        """Whether the database has queues."""
        return self.queues is not None

    @cached_property
    def rights(self) -> Rights:
        """What the user may do."""
        return Rights(self.context)

    @property
    def own_group(self) -> str:
        """This site, as the jobs' group."""
        return self.rights.group

    @cached_property
    def group(self) -> str | None:
        """The site whose jobs are shown; None: those of all sites."""
        return None if self.all_sites else self.own_group

    @cached_property
    def all_sites(self) -> bool:
        """Whether the jobs of all sites are asked for, by one who may see them."""
        return self.may_see_all and bool(self.request.form.get("all_sites"))

    @property
    def may_see_all(self) -> bool:
        """Whether the user is a Manager of the root's own user folder."""
        return self.rights.rules_all

    @property
    def may_manage(self) -> bool:
        """Whether the user may change jobs, and read arguments and tracebacks."""
        return self.rights.manages

    def visible_job(self, id: str) -> Any:
        """The stored job of that id, if the user may know of it; JobNotFound if there is none, or it is another
        site's."""
        found = find(self.queues, id)
        if not self.rights.is_in_reach(found):
            raise JobNotFound(id)
        return found

    def may_edit(self, owner: str) -> bool:
        """Whether the user may change what belongs to that owner (a site, or '' for the root)."""
        return self.rights.may_edit(owner)

    @property
    def user_id(self) -> str:
        """Who asks."""
        return str(api.user.get_current().getId() or "")

    @cached_property
    def zone(self) -> tzinfo:
        """The reader's time zone, else the site's."""
        member = api.user.get_current()
        site = api.portal.get_registry_record("plone.portal_timezone", default="")
        for name in (member.getProperty("timezone", ""), site):
            try:
                return ZoneInfo(name)
            except (TypeError, ValueError, ZoneInfoNotFoundError):
                continue
        return clock.UTC

    def local_time(self, text: str) -> datetime:
        """The time that was typed, in the reader's zone if it names none; ValueError for anything else."""
        found = datetime.fromisoformat(text)
        return found if found.tzinfo is not None else found.replace(tzinfo=self.zone)

    def moment(self, when: datetime | None) -> Moment | None:
        """A time in the reader's locale and zone, with the exact one."""
        if when is None:
            return None
        when = when.astimezone(self.zone)
        # Without its zone: Plone would show it in that of the server.
        return Moment(
            text=api.portal.get_localized_time(datetime=when.replace(tzinfo=None), long_format=True),
            iso=when.isoformat(timespec="milliseconds"),
        )

    def detail_text(self, row: JobRow) -> str:
        """Why a job does not run, in words."""
        return reason_text(self.queues, row, self.translate)

    def step(self, row: JobRow) -> Step | None:
        """How far a running job says it is."""
        if row.progress is None or row.state != RUNNING:
            return None
        done, total, text = row.progress
        percent = None if not total or total <= 0 else max(0, min(100, int(done * 100 / total)))
        numbers = f"{done:g}" if not total else f"{done:g} / {total:g}"
        return Step(self.translate(text or ""), percent, numbers)

    def queue_label(self, name: str) -> str:
        """What a queue is called on the screen."""
        return name or self.translate(_("default_queue", default="Default queue"))

    def translate(self, text: Any) -> str:
        """The text in the reader's language."""
        return str(translate(text, context=self.request))

    def say(self, text: Any, kind: str = "info") -> None:
        """Show a status message on the next page."""
        api.portal.show_message(text, request=self.request, type=kind)

    def log(self, what: str) -> None:
        """Tell the log what the user has done."""
        logger.info("%s: %s", api.user.get_current().getUserName(), what)

    def check_post(self) -> None:
        """Refuse everything but a POST from one of our own forms."""
        PostOnly(self.request)
        CheckAuthenticator(self.request)


class PanelView(Panel, BrowserView):
    """A page made from a template."""


class PanelForm(Panel):
    """A z3c.form form of the panel. Mixed in before the form's own class."""

    #: Else z3c.form would put the title above the form once more.
    enable_form_tabbing = False
    enableCSRFProtection = True
    #: Lines above the form: the first tells what the others are.
    notes: list[str] = []
    #: Bootstrap's colour of each button, by its name: z3c.form's own class would make all of them grey.
    colors: dict[str, str] = {}
    actions: Any

    def updateActions(self) -> None:
        """Paint the buttons that are there."""
        super().updateActions()  # type: ignore[misc]
        for name, color in self.colors.items():
            if name in self.actions:
                self.actions[name].klass = f"submit-widget button-field btn btn-{color}"

    def extracted(self) -> dict[str, Any] | None:
        """What was typed; None, with a message above the form, if something is wrong."""
        data, errors = self.extractData()  # type: ignore[attr-defined]
        if errors:
            self.status = self.formErrorsMessage  # type: ignore[attr-defined]
            return None
        return dict(data)

    def check_seen(self, data: dict[str, Any], now: str) -> None:
        """Refuse to save what somebody else has changed since the form was shown. ``now``: its fingerprint."""
        if data.pop("seen") != now:
            text = _(
                "changed_meanwhile",
                default="Somebody else has changed this meanwhile. Nothing was saved: open it again to see it.",
            )
            raise ActionExecutionError(Invalid(text))


class PanelFormWrapper(Panel, FormWrapper):
    """The frame around a form; subclasses name the form's class as ``form``."""

    index = ViewPageTemplateFile("templates/form.pt")
    form_instance: Any

    @property
    def section(self) -> str:  # type: ignore[override]
        """The page of the navigation."""
        return str(self.form_instance.section)

    @property
    def label(self) -> Any:
        """The form's heading."""
        return self.form_instance.label

    @property
    def description(self) -> Any:  # type: ignore[override]
        """The text below the heading."""
        return self.form_instance.description

    @property
    def notes(self) -> list[str]:
        """Lines above the form."""
        return list(self.form_instance.notes)
