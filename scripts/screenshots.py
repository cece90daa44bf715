"""Make the pictures of the documentation from a running demo: `python scripts/screenshots.py`."""

from collective.zcasync import series
from collective.zcasync.queue import get_queue
from math import sin
from pathlib import Path
from playwright.sync_api import Page
from playwright.sync_api import sync_playwright

import argparse
import demo
import instance as instances
import tempfile
import time
import ZODB

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
]
IMAGES = Path(__file__).parent.parent / "docs" / "images"

#: So many distributions are imported; the list is taken when this many have ended, so that it shows jobs in all states.
LIMIT, WHEN = 80, 40


def log_in(page: Page, instance: instances.Instance) -> None:
    page.goto(f"{instance.url}/login")
    page.fill("#__ac_name", instances.USER)
    page.fill("#__ac_password", instance.password)
    page.click("#buttons-login")
    page.wait_for_load_state()


def lay_a_day(folder: Path) -> None:
    """Give a site that is not served a day behind it, as the overview shows: little at night, some trouble at noon."""
    database = ZODB.DB(str(folder / "var" / "Data.fs"))
    with database.transaction() as connection:
        slot = get_queue(connection).free_slot()
        minute, kept = series.this_minute(), series.OOBTree()
        put = failed = waited = longest = 0
        for ago in range(24 * 60, 0, -1):
            busy = max(1.2, 4 - 3 * sin((minute - ago) % 1440 / 1440 * 6.283 + 1.5) + 2 * sin(ago / 37))
            kept[minute - ago] = (int(busy * 2), put, put, put - failed, failed, 0, waited, longest)
            put, failed = put + int(busy), failed + (int(busy / 2) if 400 < ago < 440 else ago % 97 == 0)
            waited, longest = waited + int(busy) * int(busy * 9), int(30 + busy * 25)
        slot.series, slot.tally = kept, (put, waited, longest)
        slot.dropped = {"succeeded": put - failed, "failed": failed}
    database.close()


def take(site: demo.Site, page: Page) -> None:
    """Put jobs, and take the pictures while they run and when they have ended."""
    log_in(page, site.instance)
    folder = site.put_all(demo.names()[:LIMIT])
    wait_until(site, folder, WHEN)
    page.goto(f"{site.instance.url}/@@zcasync-overview")
    page.screenshot(path=IMAGES / "overview.png")
    page.goto(f"{site.instance.url}/@@zcasync-jobs?state=failed")
    page.screenshot(path=IMAGES / "jobs.png")
    failed = wait_until(site, folder, LIMIT)[0]
    page.goto(f"{site.instance.url}/@@zcasync-job?id={failed['id']}")
    page.screenshot(path=IMAGES / "job.png")


def wait_until(site: demo.Site, folder: str, ended: int) -> list[dict[str, str]]:
    """Wait until so many jobs have ended; those that have failed."""
    while True:
        status = site.json(f"{folder}/@@zcasync-demo-status")
        if status["imported"] + len(status["failed"]) >= ended:
            return list(status["failed"])
        time.sleep(demo.LOOK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("instance-demo"), help="where the demo's site lies")
    parser.add_argument("--port", type=int, default=8080, help="the port it should have")
    options = parser.parse_args()
    site = demo.make_site(options.folder, options.port, 4)
    lay_a_day(options.folder)
    IMAGES.mkdir(parents=True, exist_ok=True)
    try:
        site.start()
        with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
            context = playwright.chromium.launch_persistent_context(
                profile, executable_path=CHROMIUM, headless=True, args=FLAGS, viewport={"width": 1280, "height": 1040}
            )
            take(site, context.pages[0] if context.pages else context.new_page())
            context.close()
    finally:
        site.stop()


if __name__ == "__main__":
    main()
