"""Who may do what with jobs: the roles that have the permissions, in a form."""

from collective.zcasync.browser.panel import PanelForm
from collective.zcasync.browser.panel import PanelFormWrapper
from collective.zcasync.interfaces import _
from collective.zcasync.ploneapp.permissions import MANAGE_JOBS
from collective.zcasync.ploneapp.permissions import MANAGE_OWN_JOBS
from collective.zcasync.ploneapp.permissions import VIEW_JOBS
from typing import Any
from z3c.form import button
from z3c.form import field
from z3c.form import form
from z3c.form.browser.checkbox import CheckBoxFieldWidget
from zExceptions import Forbidden
from zope import schema
from zope.component import getUtility
from zope.interface import Interface
from zope.interface import provider
from zope.schema.interfaces import IContextSourceBinder
from zope.schema.interfaces import IVocabularyFactory
from zope.schema.vocabulary import SimpleVocabulary

#: Permission of each field.
PERMISSIONS = {"view": VIEW_JOBS, "manage": MANAGE_JOBS, "own": MANAGE_OWN_JOBS}

#: Roles without a box: what everybody has may not see others' jobs, and Managers may do all anyway.
SETTLED = ("Anonymous", "Authenticated", "Manager")

#: Permission to change permissions.
CHANGE_PERMISSIONS = "Change permissions"


@provider(IContextSourceBinder)
def offered_roles(site: Any) -> SimpleVocabulary:
    """The roles that get a box, by title."""
    known = getUtility(IVocabularyFactory, "plone.app.vocabularies.Roles")(site)
    return SimpleVocabulary([term for term in known if term.value not in SETTLED])


class IWhoMay(Interface):
    """The roles that have each permission."""

    view = schema.Set(
        title=_("whomay_view", default="See all jobs of the site"),
        description=_(
            "whomay_view_help",
            default="Lists, states, errors in one line; no arguments, results and tracebacks.",
        ),
        value_type=schema.Choice(source=offered_roles),
        required=False,
    )
    manage = schema.Set(
        title=_("whomay_manage", default="Manage all jobs of the site"),
        description=_(
            "whomay_manage_help",
            default="Retry, cancel and change them, read arguments and tracebacks, and change settings, policies and"
            " queues of the site.",
        ),
        value_type=schema.Choice(source=offered_roles),
        required=False,
    )
    own = schema.Set(
        title=_("whomay_own", default="See and cancel the own jobs"),
        description=_("whomay_own_help", default="The page My jobs, and starting the tasks that one may start."),
        value_type=schema.Choice(source=offered_roles),
        required=False,
    )


def _with_boxes(fields: Any) -> Any:
    """The fields, each with a box for each of its roles."""
    for each in fields.values():
        each.widgetFactory = CheckBoxFieldWidget
    return fields


class WhoMayForm(PanelForm, form.EditForm):
    """Stores the roles with the site, as Plone's own settings of permissions do."""

    section = "zcasync-settings"
    label = _("whomay_title", default="Who may do what")
    description = _(
        "whomay_description",
        default="Which roles have these permissions in this site. Managers always have them.",
    )
    fields = _with_boxes(field.Fields(IWhoMay))
    colors = {"save": "primary", "cancel": "secondary"}
    ignoreContext = False

    def getContent(self) -> dict[str, Any]:
        """The roles as a dict, for z3c.form."""
        return {
            name: set(roles_of(self.context, permission)) - set(SETTLED) for name, permission in PERMISSIONS.items()
        }

    def update(self) -> None:
        """Forbidden for those who may not change permissions."""
        if not self.rights.may(CHANGE_PERMISSIONS):
            raise Forbidden("Only those who may change permissions in this site can do this.")
        super().update()

    @button.buttonAndHandler(_("button_save", default="Save"), name="save")
    def handle_save(self, action: Any) -> None:
        """Store the roles."""
        data = self.extracted()
        if data is None:
            return
        for name, permission in PERMISSIONS.items():
            roles = sorted({*(data[name] or ()), "Manager"})
            if roles != sorted(roles_of(self.context, permission)):
                self.context.manage_permission(permission, roles=roles, acquire=0)
                self.log(f"gave the permission {permission!r} to {', '.join(roles)}")
        self.say(_("whomay_saved", default="The roles were saved."))
        self.request.response.redirect(self.page_url("zcasync-settings"))

    @button.buttonAndHandler(_("button_back", default="Cancel"), name="cancel")
    def handle_cancel(self, action: Any) -> None:
        """Back to the settings."""
        self.request.response.redirect(self.page_url("zcasync-settings"))


class WhoMayPage(PanelFormWrapper):
    """The form in its frame."""

    form = WhoMayForm


def roles_of(site: Any, permission: str) -> list[str]:
    """The roles that have the permission in the site by its own settings."""
    return [entry["name"] for entry in site.rolesOfPermission(permission) if entry["selected"]]
