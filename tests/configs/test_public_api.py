"""What `import official_maskrcnn` offers."""

import pytest

import official_maskrcnn
from official_maskrcnn import errors


def test_every_public_name_resolves():
    from official_maskrcnn.configs import loading
    from official_maskrcnn.tasks import build_task
    from official_maskrcnn.training import run as run_module

    assert official_maskrcnn.load_experiment is loading.load_experiment
    assert official_maskrcnn.build_task is build_task
    assert official_maskrcnn.run is run_module.run
    assert official_maskrcnn.UserError is errors.UserError
    assert official_maskrcnn.__version__.count(".") == 2


def test_other_names_do_not():
    with pytest.raises(AttributeError, match="has no attribute 'load_experiments'"):
        _ = official_maskrcnn.load_experiments
