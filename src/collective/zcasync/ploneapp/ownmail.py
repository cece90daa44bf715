"""Mail to a person when one of the own jobs has ended: asked for on My jobs, sent by a callback of the job."""

from collective.zcasync.failure import Failure
from collective.zcasync.interfaces import _
from collective.zcasync.lookup import main_of
from collective.zcasync.ploneapp import desk
from collective.zcasync.ploneapp import sites
from collective.zcasync.ploneapp.pages import classic_url
from collective.zcasync.ploneapp.settings import settings_of
from collective.zcasync.tasks import registry
from collective.zcasync.threadlocal import local
from plone import api
from typing import Any
from zope.globalrequest import getRequest
from zope.i18n import translate

import logging

logger = logging.getLogger("collective.zcasync")


def offered(site: Any) -> bool:
    """Whether the site lets people ask for such mails."""
    return bool(getattr(settings_of(site), "own_mail", False))


def at_put(job: Any) -> None:
    """A person's job was put: give it the callback that sends the mail, if this person wants one."""
    task = registry.get(job.task)
    if task is None or not task.visible or not job.user:
        return
    site = sites.current_site()
    if site is not None and desk.look_at(site, job.user).mail and offered(site):
        job.addCallback(send)


def send(result: Any) -> None:
    """Tell the person of the running callback's job what has become of it. A mail that cannot be sent is logged."""
    job = main_of(local.getJob())
    user = api.user.get_current()
    address = user.getProperty("email", "")
    if not address:
        return
    failed = isinstance(result, Failure)
    mapping = {
        "title": _text(job.title or job.task),
        "url": classic_url(api.portal.get(), "zcasync-my-jobs"),
        "error": str(result.summary) if failed else "",
    }
    if failed:
        subject = _("mail_failed", default="Failed: ${title}", mapping=mapping)
        body = _("mail_failed_body", default="${title} has failed:\n\n${error}\n\nSee ${url}", mapping=mapping)
    else:
        subject = _("mail_done", default="Done: ${title}", mapping=mapping)
        body = _("mail_done_body", default="${title} is done.\n\nIts result: ${url}", mapping=mapping)
    try:
        api.portal.send_email(recipient=address, subject=_text(subject), body=_text(body))
    except Exception as error:
        logger.warning("No mail was sent to %r about job %s: %s", user.getId(), job.id, error)


def _text(text: Any) -> str:
    return str(translate(text, context=getRequest()))
