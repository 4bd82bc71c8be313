"""The page of wrong configurations: complete, up to date, and no exception of another kind."""

import importlib
import pathlib
import sys
import types

import pytest

_DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> types.ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(_DOCS))
        yield importlib.import_module("make_config_errors")
    for name in ("make_config_errors", "config_error_cases"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def cases(script: types.ModuleType) -> types.ModuleType:
    return sys.modules["config_error_cases"]


@pytest.fixture(scope="module")
def page(script: types.ModuleType) -> str:
    """The page as it should be; making it fails if any case is accepted or is no UserError."""
    return script.page()


def test_the_page_is_up_to_date(script: types.ModuleType, page: str):
    assert script.PAGE.read_text() == page


def test_there_are_many_cases_of_every_kind(cases: types.ModuleType):
    assert all(cases.REFUSED.values())
    assert sum(map(len, cases.REFUSED.values())) >= 60
    flat = [repr(case) for group in cases.REFUSED.values() for case in group]
    assert len(flat) == len(set(flat))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("task.model.use_gt_boxes_for_masks=flase", "did you mean false?"),
        ("trainer.train_steps=abc", "accepts an integer"),
        ("trainer.train_steps=None", "accepts an integer"),
        ("task.model.mask_head.convnet_variant=hourglass53", "did you mean hourglass52"),
        ("task.train_data.global_batch_size=-3", "accepts at least 1"),
        ("learning_rate.stepwise.boundaries=[5000]", "need 2 boundaries, but there are 1"),
        ("task.allowed_mask_class_ids=[1, 500]", "class id 500 must be less than"),
        ("crop_size=14", "must be a multiple of 32"),
        ("frobnicate=1", "no such field"),
        ("  train_steps: 10`<br>`  train_steps: 20`", "given twice, first in mine.yaml:2"),
        ("\\ttrain_steps: 10", "a tab in the indentation"),
        ("--config_file=missing.yaml", "no such file"),
    ],
)
def test_what_the_reference_takes_is_refused(page: str, given: str, message: str):
    refused, _ = page.split("## Accepted as meant")
    assert any(given in row and message in row for row in refused.splitlines())


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("input_path=/a/x*,/b/y*", "task.train_data.input_path: '/a/x*,/b/y*'"),
        ("task.init_checkpoint=None", "task.init_checkpoint: null"),
        ("an empty file", "trainer.train_steps: 22500"),
    ],
)
def test_what_the_reference_misreads_is_taken_as_meant(page: str, given: str, value: str):
    _, accepted = page.split("## Accepted as meant")
    assert any(given in row and value in row for row in accepted.splitlines())


def test_every_message_about_a_field_says_where_it_was_set(script: types.ModuleType):
    for group in script.messages().values():
        for case, message in group:
            if not message.split(" in the configuration ")[0].endswith(("fault", "faults")):
                continue
            origins = ("--params_override", "--tpu", "mine.yaml", "missing.yaml", "photos/")
            origins += (f"experiment {case.experiment}",)
            for line in message.splitlines()[1:]:
                assert any(origin in line.split(": ")[0] for origin in origins), (case, line)
