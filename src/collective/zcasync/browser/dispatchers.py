"""The dispatchers and workers: who runs jobs, where, how it fares, and what it is doing."""

from collective.zcasync import processes
from collective.zcasync.browser.panel import PanelView
from collective.zcasync.exceptions import InUse
from collective.zcasync.exceptions import NotHere
from collective.zcasync.interfaces import _
from collective.zcasync.monitorrows import JobRow
from collective.zcasync.zopeapp import heldpages
from collective.zcasync.zopeapp.heldpages import WAYS_OUT
from collective.zcasync.zopeapp.processlines import body_template
from collective.zcasync.zopeapp.processlines import Line
from collective.zcasync.zopeapp.processlines import ProcessLines
from functools import cached_property
from typing import Any
from zExceptions import Forbidden
from zope.component import getMultiAdapter


class DispatchersPage(PanelView):
    """See the module."""

    section = "zcasync-dispatchers"
    label = _("nav_dispatchers", default="Dispatchers")
    description = _(
        "dispatchers_description",
        default="The processes that run jobs: dispatchers in Zope servers, and workers. All sites share them.",
    )
    body = body_template
    refresh = 10

    #: What is to be confirmed, of WAYS_OUT; or empty.
    asked = ""

    def __call__(self) -> Any:
        if self.request.method == "POST":
            wanted = next((way for way in WAYS_OUT if way in self.request.form), "")
            return self._decide(wanted) if wanted else self._act()
        return self.index()

    @cached_property
    def held(self) -> heldpages.Notice | None:
        """Why no jobs run here until a person decides."""
        return heldpages.notice(self.queues, self.translate)

    @property
    def may_decide(self) -> bool:
        """Whether the user may."""
        return self.may_see_all

    def _decide(self, way: str) -> Any:
        """Release or discard what waits in a held database; ask first."""
        self.check_post()
        if not self.may_decide:
            raise Forbidden("Only a Manager of the Zope root can decide about a database that is held.")
        if self.held is None:
            self.say(
                _("held_no_more", default="Nothing is held here any more: somebody has decided already."), "warning"
            )
            return self.request.response.redirect(self.list_url)
        if not self.request.form.get("sure"):
            self.asked = way
            return self.index()
        try:
            number = WAYS_OUT[way](self.queues, self.user_id)
        except InUse as error:
            self.say(str(error), "error")
        else:
            self.say(
                _("said_released", default="The jobs run here from now on: ${number}.", mapping={"number": number})
                if way == "release"
                else _("said_held_discarded", default="Jobs removed: ${number}.", mapping={"number": number})
            )
        return self.request.response.redirect(self.list_url)

    @cached_property
    def lines(self) -> list[Line]:
        """What the template shows of each."""
        if self.queues is None:
            return []
        return ProcessLines(self.queues, self.translate, self.moment, self.job_url, self.may_pause).lines()

    def job_url(self, row: JobRow) -> str:
        """URL of the page of a running job; empty if it is another site's, for those who may not see these."""
        if row.group != self.own_group and not self.may_see_all:
            return ""
        return self.url_of_job(row.id, row.group)

    def may_pause(self, names: tuple[str, ...]) -> bool:
        """Whether the user may change all queues of these names."""
        return self.rights.may_edit_all(self.queues[name].owner for name in names)

    @property
    def list_url(self) -> str:
        """URL that the forms of this page are sent to."""
        return self.page_url(self.section)

    @property
    def authenticator(self) -> str:
        """The hidden field that shows a form to be ours."""
        return str(getMultiAdapter((self.context, self.request), name="authenticator").authenticator())

    def _act(self) -> Any:
        """Stop or start the dispatcher that was named."""
        self.check_post()
        uuid = str(self.request.form.get("uuid", ""))
        try:
            found = processes.registrations(self.queues, uuid)
        except NotHere:
            self.say(_("dispatcher_gone", default="That dispatcher is not registered any more."), "error")
            return self.request.response.redirect(self.list_url)
        if not self.may_pause(tuple(da.queue.name for da in found)):
            raise Forbidden("This dispatcher serves other sites too; only a Manager of the Zope root can stop it.")
        if "pause" in self.request.form:
            processes.pause(self.queues, uuid)
            self.log(f"told dispatcher {uuid} to take no more jobs")
            self.say(
                _("dispatcher_is_paused", default="It takes no more jobs: what it runs ends, and others take the rest.")
            )
        else:
            processes.resume(self.queues, uuid)
            self.log(f"told dispatcher {uuid} to take jobs again")
            self.say(_("dispatcher_is_resumed", default="It takes jobs again."))
        return self.request.response.redirect(self.list_url)
