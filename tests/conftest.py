"""Fixtures that all tests share."""

import os
import pathlib
from collections.abc import Iterator

import hypothesis
import pytest
import tf_keras

from tests.browser import Browser, open_browser

# How long an example takes is a matter of what else the machine does.
hypothesis.settings.register_profile(
    "project", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("project")

_ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same initial weights in every run, whichever tests ran before."""
    tf_keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of real images: `../shared/data`, or where OMR_DATA points."""
    folder = pathlib.Path(os.environ.get("OMR_DATA", _ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.fail(f"{folder} does not exist: set OMR_DATA to the folder with the sample images")
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium, for slow tests of pages."""
    with open_browser() as browser:
        yield browser
