"""The first page of the panel: whether all is well, in one look."""

from collective.zcasync.alarms import Limits
from collective.zcasync.browser.panel import PAGES
from collective.zcasync.browser.panel import PanelView
from collective.zcasync.browser.panel import TITLE
from collective.zcasync.interfaces import _
from collective.zcasync.ploneapp.settings import alarm_limits
from collective.zcasync.zopeapp.overview import body_template
from collective.zcasync.zopeapp.overview import Overview
from functools import cached_property


class OverviewPage(PanelView):
    """See the module."""

    section = "zcasync-overview"
    label = TITLE
    description = _(
        "overview_description",
        default="Whether all is well. The numbers of jobs are this site's; alarms and charts are about the queues,"
        " which all sites share.",
    )
    body = body_template
    refresh = 10

    @cached_property
    def overview(self) -> Overview:
        """What the template shows."""
        pages = {name: label for name, label, permission in PAGES if self.rights.may(permission)}
        return Overview(self.queues, self.translate, self.zone, self.limits, self.group, pages)

    @property
    def limits(self) -> Limits:
        """Where alarms begin in this site."""
        return alarm_limits(self.context)

    def state_url(self, state: str) -> str:
        """URL of the list of jobs in that state."""
        return self.page_url("zcasync-jobs", state=state)

    @property
    def root_url(self) -> str:
        """URL of the same for all sites, in the ZMI; empty for those who may not see it, or if there is one site."""
        if not self.may_see_all or self.queues is None or len(self.queues.sites) < 2:
            return ""
        return f"{self.context.getPhysicalRoot().absolute_url()}/@@zcasync-overview"
