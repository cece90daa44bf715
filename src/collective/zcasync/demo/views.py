"""The demo in a browser: a form that puts its jobs, and views that tell `make demo` how far they are."""

from collective.zcasync.demo import batch
from plone import api
from plone.z3cform.layout import wrap_form
from Products.Five.browser import BrowserView
from typing import Any
from z3c.form import button
from z3c.form.field import Fields
from z3c.form.form import Form
from zope.interface import Interface
from zope.schema import Text

import json


class IDemo(Interface):
    """What the form asks."""

    names = Text(
        title="Distributions",
        description="Names of installed Python distributions, one a line; nothing for all of them. Each becomes a"
        " page, written by a job. One that is not installed makes a job that fails.",
        required=False,
    )


class DemoForm(Form):
    """Puts the jobs of the demo as the person who is logged in."""

    label = "Demo of background jobs"
    fields = Fields(IDemo)
    ignoreContext = True
    enableCSRFProtection = True

    @button.buttonAndHandler("Import", name="import")
    def put(self, action: Any) -> None:
        data, errors = self.extractData()
        if errors:
            self.status = self.formErrorsMessage
            return
        folder = batch.put_all(self.context, (data["names"] or "").split())
        api.portal.show_message("The jobs are put: their pages come into this folder.", request=self.request)
        self.request.response.redirect(folder.absolute_url())


DemoView = wrap_form(DemoForm)


class Json(BrowserView):
    """Base of the views for programs."""

    def data(self) -> Any:
        raise AttributeError(type(self).__name__)

    def __call__(self) -> str:
        self.request.response.setHeader("Content-Type", "application/json")
        self.request.response.setHeader("Cache-Control", "no-store")
        return json.dumps(self.data())


class StatusView(Json):
    """How far the jobs of a folder are."""

    def data(self) -> dict[str, Any]:
        return batch.status(self.context)


class PagesView(Json):
    """Which pages of a folder should be there, and which are."""

    def data(self) -> dict[str, list[str]]:
        return batch.pages(self.context)
