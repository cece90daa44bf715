"""Markers and settings of the Plone ring."""

from collections.abc import Callable
from collective.zcasync.interfaces import _
from zope import schema
from zope.i18nmessageid import Message
from zope.interface import Interface
from zope.publisher.interfaces.browser import IDefaultBrowserLayer

import re

#: Prefix of the registry records.
PREFIX = "collective.zcasync"

#: What looks like a mail address.
ADDRESS = r"[^@\s,;<>]+@[^@\s,;<>]+"


def written_like(pattern: str, wrong: Message) -> Callable[[str], bool]:
    """A constraint: the value is empty, or matches the pattern. Its error is told in the words of ``wrong``."""
    error = type("NotWrittenLike", (schema.ValidationError,), {"__doc__": wrong})

    def constraint(value: str) -> bool:
        if value and not re.fullmatch(pattern, value):
            raise error(value)
        return True

    return constraint


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

    alarm_waiting = schema.Int(
        title=_("label_alarm_waiting", default="Alarm: oldest waiting job, minutes"),
        description=_(
            "help_alarm_waiting", default="The overview warns when a job has waited longer than this for its start."
        ),
        min=1,
        default=15,
    )

    alarm_failing = schema.Int(
        title=_("label_alarm_failing", default="Alarm: failing share of an hour, percent"),
        description=_(
            "help_alarm_failing",
            default="The overview warns when more than this share of the jobs that ended in the last hour have failed.",
        ),
        min=1,
        max=100,
        default=20,
    )

    alarm_address = schema.TextLine(
        title=_("label_alarm_address", default="Alarm: mail addresses"),
        description=_(
            "help_alarm_address",
            default="They get a mail when an alarm of the overview begins, and one when it ends. Write one address, or"
            " several with commas between them; while it is empty, nobody gets any. A dispatcher sends them, so at"
            " least one must be alive.",
        ),
        constraint=written_like(
            rf"{ADDRESS}(\s*,\s*{ADDRESS})*",
            _("not_an_address", default="This is no mail address: write one like jobs@example.org."),
        ),
        required=False,
        missing_value="",
        default="",
    )

    own_mail = schema.Bool(
        title=_("label_own_mail", default="Mail about own jobs"),
        description=_(
            "help_own_mail",
            default="Whether people may ask, on the page My jobs, for a mail when a job has ended that they start from"
            " then on.",
        ),
        required=False,
        default=True,
    )

    classic_url = schema.TextLine(
        title=_("label_classic_url", default="Address of the classic pages"),
        description=_(
            "help_classic_url",
            default="Where the site is reached in Plone's classic user interface, if a front end such as Volto answers"
            " at its own address: for example https://example.org/ClassicUI. Mails and the Site Setup of the front end"
            " then link to the pages of background jobs there. While it is empty, mails link to the address of the"
            " site.",
        ),
        constraint=written_like(
            r"https?://[^\s<>?#]+",
            _("not_a_web_address", default="This is no web address: write one like https://example.org/ClassicUI."),
        ),
        required=False,
        missing_value="",
        default="",
    )
