"""The note in the toolbar that tells a person when one of the own jobs has ended. It looks at no job: a script asks."""

from collective.zcasync.ploneapp.permissions import MANAGE_OWN_JOBS
from plone import api
from plone.app.layout.viewlets.common import ViewletBase
from Products.Five.browser.pagetemplatefile import ViewPageTemplateFile

#: The script of the note and of the page My jobs, below the site's URL.
SCRIPT = "++resource++zcasync/myjobs.js"


class Note(ViewletBase):
    """Hidden until there is something to tell."""

    index = ViewPageTemplateFile("templates/note.pt")

    @property
    def available(self) -> bool:
        """Whether there is a person who may have jobs."""
        return not api.user.is_anonymous() and api.user.has_permission(MANAGE_OWN_JOBS, obj=api.portal.get())

    @property
    def url(self) -> str:
        """URL of My jobs."""
        return f"{self.site_url}/@@zcasync-my-jobs"

    @property
    def news_url(self) -> str:
        """URL that the script asks."""
        return f"{self.site_url}/@@zcasync-my-news"

    @property
    def script_url(self) -> str:
        """URL of the script."""
        return f"{self.site_url}/{SCRIPT}"
