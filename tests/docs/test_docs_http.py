"""What pages show of HTTP is what a Plone site answers."""

from collective.zcasync.testing import run_jobs
from docblocks import Block
from docblocks import blocks
from docblocks import DOCS
from docblocks import save
from docblocks import used
from email.parser import Parser
from pathlib import Path
from plone.app.testing import setRoles
from plone.app.testing import TEST_USER_ID
from plone.app.testing import TEST_USER_NAME
from plone.app.testing import TEST_USER_PASSWORD
from plone.protect.authenticator import createToken
from plone.testing.zope import Browser
from typing import Any
from zope.component.hooks import site as local_site
from zope.configuration import xmlconfig

import doctest
import importlib
import pytest
import transaction

PAGE = DOCS / "how-to-guides" / "put-in-a-view.md"


@pytest.fixture
def browser(functional: Any, functional_portal: Any, modules: Path) -> Any:
    """The browser of somebody who is logged in, in a site that has the page's view."""
    for block in blocks(PAGE, "python"):
        save(block, modules)
    (modules / "my" / "site" / "__init__.py").touch()
    importlib.import_module("my.site.views")
    (zcml,) = blocks(PAGE, "xml")
    with local_site(None):  # else the view would be registered in the site, and stored
        xmlconfig.string(zcml.text, context=functional["configurationContext"])
    setRoles(functional_portal, TEST_USER_ID, ["Manager"])
    transaction.commit()
    browser = Browser(functional["app"])
    browser.raiseHttpErrors = False
    browser.addHeader("Authorization", f"Basic {TEST_USER_NAME}:{TEST_USER_PASSWORD}")
    return browser


def message(block: Block) -> tuple[str, Any]:
    """The first line of a request or an answer, and the rest: headers and a body."""
    first, _, rest = block.text.partition("\n")
    return first, Parser().parsestr(rest)


def send(browser: Any, block: Block) -> None:
    """Do what a block asks for."""
    line, rest = message(block)
    method, path, _ = line.split()
    body = rest.get_payload().strip().replace("TOKEN", createToken())
    if method == "POST":
        browser.post(f"http://nohost{path}", body, rest["Content-Type"])
    else:
        browser.open(f"http://nohost{path}")


def test_a_site_answers_as_the_page_shows(browser: Any, functional_portal: Any) -> None:
    found = blocks(PAGE, "http")
    for request, answer in zip(found[::2], found[1::2], strict=True):
        send(browser, request)
        status, rest = message(answer)
        assert browser.headers["status"].lower() == status.removeprefix("HTTP/1.1 ").lower()
        body = rest.get_payload().strip()
        if body:
            assert doctest.OutputChecker().check_output(body + "\n", browser.contents + "\n", doctest.ELLIPSIS)
        used.update((request, answer))
    transaction.begin()
    assert [job.result for job in run_jobs(functional_portal)] == ["Better"]
