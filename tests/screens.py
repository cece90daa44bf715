"""A browser window as a person uses it: log in, open a page, read it, press a button, take a picture."""

from dataclasses import dataclass
from pathlib import Path
from playwright.sync_api import expect
from playwright.sync_api import Page
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD

#: Widths at which every page is looked at: a desktop and a small phone.
WIDTHS = {"desktop": 1280, "phone": 360}


@dataclass
class Screen:
    """A window, the site that it shows, and the folder for pictures."""

    page: Page
    site: str
    pictures: Path

    def log_in(self) -> None:
        self.page.goto(f"{self.site}/login")
        self.page.fill("#__ac_name", SITE_OWNER_NAME)
        self.page.fill("#__ac_password", SITE_OWNER_PASSWORD)
        self.press("#buttons-login")

    def open(self, path: str) -> None:
        self.page.goto(f"{self.site}/{path}")

    def press(self, selector: str) -> None:
        """Press a button that leads to another page, and wait for that."""
        with self.page.expect_navigation():
            self.page.locator(selector).click()

    def follow(self, text: str) -> None:
        """Follow the first link of the content that has this text."""
        with self.page.expect_navigation():
            self.page.locator("#content").get_by_role("link", name=text).first.click()

    def sees(self, text: str) -> None:
        """Wait until the page shows the text."""
        expect(self.page.locator("body")).to_contain_text(text)

    @property
    def text(self) -> str:
        return self.page.locator("body").inner_text()

    @property
    def state(self) -> str:
        """The state that the page of a job shows."""
        return self.page.locator("#zcasync-state").inner_text()

    def reload_until(self, text: str, tries: int = 200) -> None:
        """Load the page anew, as a person does who waits for a job, until it shows the text."""
        for _try in range(tries):
            if text in self.text:
                return
            self.page.reload()
        raise AssertionError(f"{text!r} did not appear on {self.page.url}:\n{self.text}")

    def picture(self, name: str) -> None:
        """Keep a picture of the whole page at each width; its body must not be wider than the window."""
        for what, width in WIDTHS.items():
            self.page.set_viewport_size({"width": width, "height": 900})
            self.pictures.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=self.pictures / f"{name}-{what}.png", full_page=True)
            assert self.page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} overflows at {width}"
        self.page.set_viewport_size({"width": WIDTHS["desktop"], "height": 900})
