"""The settings that a site has for its jobs: registry records, in a form of their own."""

from collective.zcasync.browser.panel import PanelForm
from collective.zcasync.browser.panel import PanelFormWrapper
from collective.zcasync.interfaces import _
from collective.zcasync.ploneapp.interfaces import ISettings
from collective.zcasync.ploneapp.interfaces import PREFIX
from plone.app.registry.browser.controlpanel import RegistryEditForm


class SettingsForm(PanelForm, RegistryEditForm):
    """See ISettings."""

    section = "zcasync-settings"
    schema = ISettings
    schema_prefix = PREFIX
    label = _("nav_settings", default="Settings")
    description = _("settings_description", default="What holds for the background jobs of this site.")
    control_panel_view = "@@zcasync-jobs"


class SettingsPage(PanelFormWrapper):
    """The form in its frame."""

    form = SettingsForm
