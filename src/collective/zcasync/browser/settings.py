"""The settings that a site has for its jobs: registry records, in a form of their own."""

from collective.zcasync.browser.panel import PanelForm
from collective.zcasync.browser.panel import PanelFormWrapper
from collective.zcasync.browser.whomay import CHANGE_PERMISSIONS
from collective.zcasync.interfaces import _
from collective.zcasync.ploneapp.interfaces import ISettings
from collective.zcasync.ploneapp.interfaces import PREFIX
from plone.app.registry.browser.controlpanel import RegistryEditForm
from Products.Five.browser.pagetemplatefile import ViewPageTemplateFile


class SettingsForm(PanelForm, RegistryEditForm):
    """See ISettings."""

    section = "zcasync-settings"
    schema = ISettings
    schema_prefix = PREFIX
    label = _("nav_settings", default="Settings")
    description = _(
        "settings_description",
        default="What holds for the background jobs of this site. A change holds at once, in all processes: it is read"
        " whenever it is needed.",
    )
    control_panel_view = "@@zcasync-jobs"
    colors = {"save": "primary", "cancel": "secondary"}


class SettingsPage(PanelFormWrapper):
    """The form in its frame, with links to what is set elsewhere."""

    form = SettingsForm
    index = ViewPageTemplateFile("templates/settings.pt")

    @property
    def may_change_permissions(self) -> bool:
        """Whether the user may say who may do what."""
        return self.rights.may(CHANGE_PERMISSIONS)
