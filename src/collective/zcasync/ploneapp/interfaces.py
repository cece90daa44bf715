"""Markers and settings of the Plone ring."""

from collective.zcasync.interfaces import _
from zope import schema
from zope.interface import Interface
from zope.publisher.interfaces.browser import IDefaultBrowserLayer

#: Prefix of the registry records.
PREFIX = "collective.zcasync"


class IBrowserLayer(IDefaultBrowserLayer):
    """Marks the requests of sites in which the product is installed."""


class IJobRequest(Interface):
    """Marks the request that a job runs under: there is no browser behind it."""


class ISettings(Interface):
    """What a site decides about its jobs. Registry records under ``collective.zcasync``."""

    service_user = schema.TextLine(
        title=_("label_service_user", default="Service user"),
        description=_(
            "help_service_user",
            default="Id of the user as whom jobs run that are put without a request and without a logged-in user, for"
            " example by a script. Give it the roles that these jobs need, and no more. While it is empty, such puts"
            " are refused.",
        ),
        required=False,
        missing_value="",
        default="",
    )
