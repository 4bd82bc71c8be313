"""A headless Chromium, for tests of pages; what it writes to its console is kept."""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)


class Browser:
    """Chromium with one window.

    Attributes:
      driver: selenium's, for all that is not below.
    """

    def __init__(self, driver: Any):
        self.driver = driver

    def open(self, page: str | pathlib.Path) -> None:
        """Opens a URL or a file, with an empty console."""
        self.console()
        url = page.resolve().as_uri() if isinstance(page, pathlib.Path) else page
        self.driver.get(url)

    def console(self) -> list[str]:
        """What was written to the console since the last call: errors, warnings, messages."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def find(self, selector: str) -> list[Any]:
        """All elements of a CSS selector."""
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        """The first element of a CSS selector."""
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        """Clicks on it as a user does, once it is in view."""
        found = self.one(selector)
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", found)
        found.click()

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs JavaScript; what it returns."""
        return self.driver.execute_script(script, *arguments)

    def emulate(self, width: int, height: int, dark: bool = False) -> None:
        """Sets the window's size, down to that of a phone, and the preferred colours."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Starts Chromium, with a profile of its own; fails where it is not installed."""
    from selenium import webdriver

    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.fail("no chromium or chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
