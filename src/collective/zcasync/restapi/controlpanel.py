"""The settings form of Site Setup → Background jobs for front ends: ``@controlpanels/background-jobs``."""

from collective.zcasync.ploneapp.interfaces import IBrowserLayer
from collective.zcasync.ploneapp.interfaces import ISettings
from collective.zcasync.ploneapp.interfaces import PREFIX
from collective.zcasync.ploneapp.rights import Rights
from plone.base.interfaces import IPloneSiteRoot
from plone.restapi.controlpanels import RegistryConfigletPanel
from plone.restapi.controlpanels.interfaces import IControlpanel
from typing import Any
from zope.component import adapter
from zope.i18n import translate
from zope.interface import implementer


class BackgroundJobs(RegistryConfigletPanel):
    """See ISettings. What is no setting of the site stands in the classic pages."""

    schema = ISettings
    schema_prefix = PREFIX
    configlet_id = "zcasync"
    configlet_category_id = "plone-advanced"
    context: Any
    request: Any

    def get_searchable_text(self) -> list[str]:
        """The texts by which the panel is found, in the reader's language."""
        texts = super().get_searchable_text()
        return [str(translate(text, context=self.request)) for text in texts]


@implementer(IControlpanel)
@adapter(IPloneSiteRoot, IBrowserLayer)
def background_jobs(site: Any, request: Any) -> BackgroundJobs | None:
    """The panel, for those who may change the settings; plone.restapi itself looks at no panel's permission."""
    return BackgroundJobs(site, request) if Rights(site).manages else None
