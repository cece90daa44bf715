"""The panel's pages and where they are reached: the panel itself, mails and front ends link to them."""

from collective.zcasync.interfaces import _
from collective.zcasync.ploneapp.permissions import MANAGE_JOBS
from collective.zcasync.ploneapp.permissions import VIEW_JOBS
from collective.zcasync.ploneapp.settings import settings_of
from typing import Any

#: View name, label and permission of each page that the navigation leads to.
PAGES = (
    ("zcasync-overview", _("nav_overview", default="Overview"), VIEW_JOBS),
    ("zcasync-jobs", _("nav_jobs", default="Jobs"), VIEW_JOBS),
    ("zcasync-queues", _("nav_queues", default="Queues"), VIEW_JOBS),
    ("zcasync-dispatchers", _("nav_dispatchers", default="Dispatchers"), VIEW_JOBS),
    ("zcasync-tasks", _("nav_tasks", default="Start a task"), VIEW_JOBS),
    ("zcasync-policies", _("nav_policies", default="Retry policies"), MANAGE_JOBS),
    ("zcasync-settings", _("nav_settings", default="Settings"), MANAGE_JOBS),
)


def configured_url(site: Any) -> str:
    """URL of the site in Plone's classic user interface, as its settings name it; empty if they do not."""
    return str(getattr(settings_of(site), "classic_url", None) or "").rstrip("/")


def classic_url(site: Any, page: str) -> str:
    """URL of one of the classic pages, for links from elsewhere.

    :param page: name of its view.
    """
    return f"{configured_url(site) or site.absolute_url()}/@@{page}"
