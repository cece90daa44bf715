"""A browser window as a person uses it: log in, open a page, read it, press a button, take a picture."""

from axe_playwright_python.sync_playwright import Axe
from dataclasses import dataclass
from pathlib import Path
from playwright.sync_api import expect
from playwright.sync_api import Page
from plone.app.testing import SITE_OWNER_NAME
from plone.app.testing import SITE_OWNER_PASSWORD

#: Widths at which every page is looked at: a desktop and a small phone.
WIDTHS = {"desktop": 1280, "phone": 360}

#: What a browser tells of a tab to which somebody comes back. The marker comes to the server after what the page asks.
COME_BACK = """async (marker) => {
    document.dispatchEvent(new Event("visibilitychange"));
    await fetch(marker);
}"""

#: Whether one has to scroll a table sideways that is shown.
SCROLLS = """[...document.querySelectorAll('.table-responsive')].some(
    box => box.checkVisibility() && box.scrollWidth > box.clientWidth
)"""

#: What people with a keyboard do not reach, or do not see that they have reached it.
FOCUS = """() => {
    const ours = document.querySelector("#content") ?? document.querySelector("main");
    const style = (one) => (({ outline, boxShadow, borderColor, backgroundColor }) =>
        [outline, boxShadow, borderColor, backgroundColor].join())(getComputedStyle(one));
    const wrong = [];
    for (const one of ours.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")) {
        if (one.type === "hidden" || one.disabled || !one.checkVisibility()) continue;
        one.blur();
        const before = style(one);
        one.focus({ focusVisible: true });
        if (one.tabIndex < 0 || document.activeElement !== one || style(one) === before) wrong.push(one.outerHTML);
    }
    document.activeElement.blur();
    return wrong;
}"""

#: Pixels of a wide screen, at which every page is measured only.
WIDE = 1920

#: Finds what keeps people out of a page.
AXE = Axe()


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

    def come_back(self) -> bool:
        """Come back to the tab from another one; whether the page has asked the server what is new."""
        asked: list[str] = []
        self.page.on("request", lambda request: asked.append(request.url))
        self.page.evaluate(COME_BACK, f"{self.site}/robots.txt?come-back")
        return not asked[0].endswith("?come-back")

    def picture(self, name: str) -> None:
        """Keep pictures of the page, with which nothing may be wrong."""
        wrong = self.look(name)
        assert not wrong, wrong

    def look(self, name: str) -> list[str]:
        """Keep a picture of the whole page at each width; what is wrong there: it does not fit, or keeps people out."""
        self.page.add_style_tag(content="* { transition: none !important }")
        wrong = [f"{name} does not show the focus of {element}" for element in self.page.evaluate(FOCUS)]
        self.pictures.mkdir(parents=True, exist_ok=True)
        for what, width in WIDTHS.items():
            self.page.set_viewport_size({"width": width, "height": 900})
            self.page.screenshot(path=self.pictures / f"{name}-{what}.png", full_page=True)
            taken = self.page.evaluate("document.documentElement.scrollWidth")
            wrong += [f"{name} takes {taken} pixels of {width}"] if taken > width else []
            wrong += [f"{name} at {width}: a table scrolls sideways"] if self.scrolls else []
            wrong += [f"{name} at {width}: {barrier}" for barrier in self.barriers()]
        self.page.set_viewport_size({"width": WIDE, "height": 900})
        taken = self.page.evaluate("document.documentElement.scrollWidth")
        wrong += [f"{name} takes {taken} pixels of {WIDE}"] if taken > WIDE else []
        self.page.set_viewport_size({"width": WIDTHS["desktop"], "height": 900})
        return wrong

    @property
    def in_zmi(self) -> bool:
        """Whether the page is in the frame of the ZMI."""
        return not self.page.locator("#content").count()

    @property
    def scrolls(self) -> bool:
        """Whether one has to scroll a table sideways."""
        return bool(self.page.evaluate(SCROLLS))

    def barriers(self) -> list[str]:
        """What axe calls serious or critical in the page's content; the frame and the ZMI's colours are not ours."""
        ours, rules = ("main", {"color-contrast": {"enabled": False}}) if self.in_zmi else ("#content", {})
        found = AXE.run(self.page, ours, {"resultTypes": ["violations"], "rules": rules})
        return [
            f"{finding['id']}: {node['html']} {node['failureSummary']}"
            for finding in found.response["violations"]
            if finding["impact"] in ("serious", "critical")
            for node in finding["nodes"]
        ]
