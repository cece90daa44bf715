"""The frame of the panel's pages: heading, navigation and messages, within that of Plone's Site Setup."""

from functools import cache
from pathlib import Path
from Products.CMFPlone.controlpanel.browser import prefsmaintemplate
from Products.Five.browser import BrowserView
from Products.Five.browser.pagetemplatefile import ViewPageTemplateFile
from typing import Any
from zope.component import getMultiAdapter


class PanelMacros(BrowserView):
    """Gives the templates their frame."""

    template = ViewPageTemplateFile("templates/panel.pt")

    @property
    def macros(self) -> Any:
        """The macros of the frame's template."""
        return self.template.macros

    def __getitem__(self, name: str) -> Any:
        return self.macros[name]

    @property
    def site_setup(self) -> Any:
        """The macros of Site Setup. Plone's own view compiles its template for each page anew, which takes as long as
        all the rest of a page; so it is kept here, unless a site has a view that does something else."""
        view = getMultiAdapter((self.context, self.request), name="prefs_main_template")
        if type(view).macros is not prefsmaintemplate.PrefsMainTemplate.macros:
            return view.macros
        return _compiled(view.prefs_main_template_name).macros


@cache
def _compiled(name: str) -> Any:
    """Plone's template of that name."""
    return ViewPageTemplateFile(name, str(Path(prefsmaintemplate.__file__).parent))
