"""A person with a browser without JavaScript, who talks to the publisher directly."""

from plone.testing.zope import Browser
from typing import Any
from urllib.parse import urlencode

import transaction

#: Of all people that tests make.
PASSWORD = "correct horse battery"


class Visitor:
    """One person with a browser."""

    def __init__(self, layer: Any, name: str, password: str = PASSWORD) -> None:
        self.site = layer["portal"].absolute_url()
        self.browser = Browser(layer["app"])
        self.browser.raiseHttpErrors = False
        if name:
            self.browser.addHeader("Authorization", f"Basic {name}:{password}")

    def open(self, path: str) -> str:
        self.browser.open(f"{self.site}/{path}")
        return self.browser.contents

    def press(self, name: str) -> str:
        self.browser.getControl(name=name).click()
        transaction.begin()
        return self.browser.contents

    def post(self, page: str, **fields: str) -> int:
        """The status of the answer to a form that was made up."""
        self.browser.post(f"{self.site}/{page}", urlencode(fields))
        transaction.begin()
        return self.status

    def token(self) -> str:
        """That of our forms, from a page that all have who are logged in."""
        self.open("@@personal-information")
        return str(self.browser.getControl(name="_authenticator", index=0).value)

    @property
    def status(self) -> int:
        return int(self.browser.headers["Status"].split()[0])

    @property
    def contents(self) -> str:
        return str(self.browser.contents)

    def is_let_in(self, path: str) -> bool:
        """Whether the page is shown; else one is asked to log in, or told that one may not see it."""
        contents = self.open(path)
        assert ("zcasync-header" in contents) != ("login" in self.browser.url or "insufficient" in self.browser.url)
        return "zcasync-header" in contents
