"""Pictures of the server's page: docs/pictures/playground-{desktop,phone,compare}.png, from a server that runs.

szilard serve --port 8000
python benchmarks/serve_screenshots.py --url http://127.0.0.1:8000/
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
WHY = "Explain in two sentences why the sky is blue."
COPY = "Repeat after me, word by word: one fish two fish red fish blue fish one fish two fish red fish blue fish."
MINUTES = 5  # for one picture, on a slow machine


def _open(page: Page, url: str, prompt: str, tokens: int) -> None:
    page.set_default_timeout(MINUTES * 60_000)
    page.goto(url)
    page.locator("select option").nth(1).wait_for(state="attached")
    page.fill("#prompt", prompt)
    page.fill("#max_tokens", str(tokens))


def _lead(page: Page) -> None:
    """LEAD that switches often, so that a short answer shows it."""
    page.get_by_label("Method", exact=True).select_option("lead")
    page.get_by_text("Hyperparameters").first.click()
    page.get_by_label("window").fill("4")


def _send(page: Page) -> None:
    page.click("#send")
    for state in page.locator("article .state").all():
        state.filter(has_text=re.compile("^(done|cut)")).wait_for()


def desktop(page: Page, url: str) -> None:
    """One answer, with the record of a token."""
    _open(page, url, WHY, 48)
    _lead(page)
    _send(page)
    page.locator("article .t.latent").nth(-3).hover()


def compare(page: Page, url: str) -> None:
    """Plain decoding beside drafts from the prompt."""
    _open(page, url, COPY, 48)
    page.get_by_label("Compare two methods").check()
    page.get_by_label("Second method").select_option("prompt-lookup")
    _send(page)


def phone(page: Page, url: str) -> None:
    """One answer on 360 pixels."""
    _open(page, url, WHY, 32)
    _lead(page)
    page.get_by_text("Hyperparameters").first.click()  # closes them
    _send(page)


SCENES = {
    "desktop": (desktop, {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"}),
    "compare": (compare, {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}),
    "phone": (
        phone,
        {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/", help="of the page")
    parser.add_argument("--only", choices=sorted(SCENES), help="one picture")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser's program")
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=given.chromium, args=options)
        for name, (scene, settings) in SCENES.items():
            if given.only in (None, name):
                page = browser.new_context(**settings).new_page()
                scene(page, given.url)
                path = PICTURES / f"playground-{name}.png"
                page.screenshot(path=path)
                print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")
                page.context.close()
        browser.close()


if __name__ == "__main__":
    main()
