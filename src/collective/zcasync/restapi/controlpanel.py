"""The settings form of Site Setup → Background jobs for front ends: ``@controlpanels/background-jobs``."""

from collective.zcasync.interfaces import _
from collective.zcasync.ploneapp.interfaces import IBrowserLayer
from collective.zcasync.ploneapp.interfaces import ISettings
from collective.zcasync.ploneapp.interfaces import PREFIX
from collective.zcasync.ploneapp.pages import classic_url
from collective.zcasync.ploneapp.pages import configured_url
from collective.zcasync.ploneapp.pages import PAGES
from collective.zcasync.ploneapp.rights import Rights
from html import escape
from plone.base.interfaces import IPloneSiteRoot
from plone.restapi.controlpanels import RegistryConfigletPanel
from plone.restapi.controlpanels.interfaces import IControlpanel
from plone.restapi.interfaces import ISerializeToJson
from plone.restapi.serializer.controlpanels import ControlpanelSerializeToJson
from typing import Any
from zope.component import adapter
from zope.i18n import translate
from zope.interface import implementer

#: Name of what is shown above the settings and is none.
LINKS = "pages"

#: In the path of a request that has come through a front end: its address is the site's for all but the API.
BEHIND_FRONT_END = "/++api++/VirtualHostRoot"


class BackgroundJobs(RegistryConfigletPanel):
    """See ISettings. What is no setting of the site stands in the classic pages, to which the form links."""

    schema = ISettings
    schema_prefix = PREFIX
    configlet_id = "zcasync"
    configlet_category_id = "plone-advanced"
    context: Any
    request: Any

    def get_searchable_text(self) -> list[str]:
        """The texts by which the panel is found, in the reader's language."""
        return [self.text(text) for text in super().get_searchable_text()]

    def links(self) -> str:
        """HTML with a link to each classic page that the user may see, or with the way to have such links."""
        if not configured_url(self.context) and BEHIND_FRONT_END in self.request["PATH_INFO"]:
            return escape(
                self.text(
                    _(
                        "classic_url_unknown",
                        default="Links to the classic pages stand here once the field Address of the classic pages"
                        " says where they are.",
                    )
                )
            )
        rights = Rights(self.context)
        return " · ".join(
            f'<a href="{escape(classic_url(self.context, page))}">{escape(self.text(label))}</a>'
            for page, label, permission in PAGES
            if rights.may(permission)
        )

    def text(self, text: Any) -> str:
        """A text in the reader's language."""
        return str(translate(text, context=self.request))


@implementer(ISerializeToJson)
@adapter(BackgroundJobs)
class Form(ControlpanelSerializeToJson):
    """The form with links above it, in Volto's widget for a text that is not edited."""

    controlpanel: BackgroundJobs

    def __call__(self) -> dict[str, Any]:
        """See ISerializeToJson."""
        result: dict[str, Any] = super().__call__()
        panel, schema = self.controlpanel, result["schema"]
        shown = {
            "title": panel.text(_("classic_pages", default="Classic pages")),
            "description": panel.text(
                _("classic_pages_help", default="Jobs, queues and retry policies have pages in the classic interface.")
            ),
            "type": "string",
            "widget": "static_text",
            "mode": "display",
        }
        schema["properties"] = {LINKS: shown, **schema["properties"]}
        schema["fieldsets"][0]["fields"].insert(0, LINKS)
        result["data"][LINKS] = {"content-type": "text/html", "data": panel.links()}
        return result


@implementer(IControlpanel)
@adapter(IPloneSiteRoot, IBrowserLayer)
def background_jobs(site: Any, request: Any) -> BackgroundJobs | None:
    """The panel, for those who may change the settings; plone.restapi itself looks at no panel's permission."""
    return BackgroundJobs(site, request) if Rights(site).manages else None
