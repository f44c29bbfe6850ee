"""The operator's page in headless Chromium, with real clicks, while a hindcast goes on in another process."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cycler.tiny import records, write_experiment
from tests.cycler.web.serving import shown

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `dev`")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on PATH: apt-get install chromium"),
]
WAIT = 120_000  # ms; the limit only keeps a broken page from hanging


@pytest.fixture
def page() -> Iterator[Any]:
    """Yield a page; what it writes to its console as an error fails the test."""
    errors: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda message: message.type == "error" and errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(WAIT)
        yield page
        browser.close()
    assert [error for error in errors if "ERR_CONNECTION_REFUSED" not in error] == []


def test_new_cycles_show_by_themselves_while_a_hindcast_goes_on(world: Any, tmp_path: Path, page: Any) -> None:
    archive = tmp_path / "archive"
    experiment = write_experiment(tmp_path, world, drift={"starts": [], "free_run": False})

    def hindcast(until: str) -> subprocess.Popen[bytes]:
        code = "from dacycle.cycler.cli import main; main()"
        command = [sys.executable, "-c", code, "hindcast", str(experiment), "--archive", str(archive), "--until", until]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    with shown(archive) as address:
        page.goto(address)
        assert "no archive at" in page.inner_text("main")
        first = hindcast("20240102T18")
        page.click("text=tiny")  # appears with the first commit
        page.wait_for_selector("#cycle-20240102T18")
        assert first.wait() == 0
        page.evaluate("window.stays = true")
        page.focus("#cycle-20240102T12")
        last = hindcast("20240103T12")
        page.wait_for_selector("#cycle-20240103T12")
        assert last.wait() == 0
        assert page.evaluate("window.stays"), "the page was not loaded again"
        assert page.evaluate("document.activeElement.id") == "cycle-20240102T12", "the focus stays"
        page.wait_for_selector("#said:has-text('20240103T12')", state="attached")
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.id") == "cycle-20240102T18"
        page.click("#cycle-20240103T06")
        page.wait_for_selector("h1:has-text('3 January 2024, 06 UTC')")
        page.click("a[rel=next]")
        page.wait_for_selector("h1:has-text('3 January 2024, 12 UTC')")
        assert records(archive)[-1].digests["experiment"] in page.inner_text("main")
        page.click("nav >> text=tiny")
        page.click("text=Stations")
        page.fill("#search", "a")
        page.click("text=Search")
        page.click("tbody a >> nth=0")
        page.wait_for_selector("text=Departures over time")
        for width in (1280, 400):
            page.set_viewport_size({"width": width, "height": 900})
            for path in ("/", "/run/tiny", "/run/tiny/cycles/20240103T12"):
                page.goto(address + path)
                cut = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert cut == 0, f"{path} is cut off at {width} pixels"
        page.goto(f"{address}/run/tiny")
        page.wait_for_selector("#said:not(:empty)", state="attached")
    page.wait_for_selector("text=No answer from dacycle web")
