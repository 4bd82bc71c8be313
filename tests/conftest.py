"""Fixtures that all tests share."""

import os
import pathlib

import hypothesis
import pytest

# How long an example takes is a matter of what else the machine does.
hypothesis.settings.register_profile(
    "project", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("project")

_ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of real images: `../shared/data`, or where OMR_DATA points."""
    folder = pathlib.Path(os.environ.get("OMR_DATA", _ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.fail(f"{folder} does not exist: set OMR_DATA to the folder with the sample images")
    return folder
