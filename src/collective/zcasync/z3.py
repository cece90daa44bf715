"""What zc.async's users imported to have the site and the people of a put around their jobs."""

from collective.zcasync import job
from collective.zcasync.exceptions import PutRefused
from collective.zcasync.interfaces import IJobContext
from typing import Any
from zope.component import queryUtility
from zope.component.hooks import getSite

__all__ = ("Job", "Participation")


class Job(job.Job):
    """A job that runs in the site and for the people of its put, as every job does where IJobContext is registered.

    Without that utility nothing would remember them. A put in a site is then refused (PutRefused); a put without a
    site is that of a plain job.
    """

    def seal(self, database_name: str | None = None, run_as: str | None = None) -> None:
        """See Call.seal."""
        site = getSite()
        if site is not None and queryUtility(IJobContext) is None:
            raise PutRefused(
                f"{self!r} would not run in the site {site!r} in which it is put: register a utility for"
                " collective.zcasync.interfaces.IJobContext, or put a collective.zcasync.job.Job"
            )
        super().seal(database_name, run_as)


class Participation:
    """That a principal takes part in an interaction of zope.security, which needs these two attributes."""

    interaction: Any = None

    def __init__(self, principal: Any) -> None:
        self.principal = principal
