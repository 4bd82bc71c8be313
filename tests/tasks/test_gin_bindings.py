"""Gin reaches constructors: of schedules, whose fields it overrides, and of mask heads."""

import pathlib
from collections.abc import Iterator

import gin
import pytest
import tensorflow as tf

from official_maskrcnn.configs.loading import load_experiment
from official_maskrcnn.errors import UserError
from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.modeling.heads import MASK_HEADS, MaskNetwork
from official_maskrcnn.tasks import gin_bindings

with light_imports():
    from official.modeling.optimization import optimizer_factory

RESNET = "deep_mask_head_rcnn_resnetfpn_coco"


@pytest.fixture(autouse=True)
def _no_bindings() -> Iterator[None]:
    yield
    gin.clear_config()


def _rate_at(step: int) -> float:
    config = load_experiment(RESNET).trainer.optimizer_config
    return float(optimizer_factory.OptimizerFactory(config).build_learning_rate()(step))


def test_schedules(tmp_path: pathlib.Path):
    before = _rate_at(250)  # half of the warmup's 500 steps
    assert before == pytest.approx((0.0067 + 0.12) / 2)
    file = tmp_path / "a.gin"
    file.write_text("LinearWarmup.warmup_steps = 100\n")
    gin_bindings.bind([str(file)], ["PiecewiseConstantDecayWithOffset.values = [0.5, 0.05, 0.01]"])
    assert _rate_at(250) == 0.5
    assert _rate_at(50) == pytest.approx((0.0067 + 0.5) / 2)
    text = gin_bindings.in_force()
    assert "LinearWarmup.warmup_steps = 100" in text
    assert "PiecewiseConstantDecayWithOffset.values" in text
    gin.clear_config()
    assert _rate_at(250) == before
    assert gin_bindings.in_force() == ""


def test_arguments_of_a_mask_head_of_one_s_own(monkeypatch: pytest.MonkeyPatch):
    class WidePatch(MaskNetwork):
        def __init__(self, config, options, width: int = 1):
            super().__init__(config, options)
            self.width = width

        def call(self, features, training=None, weights=None):
            return tf.repeat(features, self.width, axis=-1)

    monkeypatch.setitem(MASK_HEADS._entries, "wide_patch", WidePatch)
    gin_bindings.bind([], ["WidePatch.width = 3"])
    assert MASK_HEADS.get("wide_patch")(None, None).width == 3


@pytest.mark.parametrize(
    ("files", "bindings", "message"),
    [
        ([], ["LinearWramup.warmup_steps = 1"], "LinearWramup"),
        ([], ["LinearWarmup.warmup_step = 1"], "warmup_step"),
        ([], ["LinearWarmup.warmup_steps 1"], "LinearWarmup"),
        (["nothing.gin"], [], "nothing.gin"),
    ],
)
def test_mistakes(files: list[str], bindings: list[str], message: str):
    with pytest.raises(UserError) as error:
        gin_bindings.bind(files, bindings)
    assert message in str(error.value)
    assert "classes: " in str(error.value)
    assert "LinearWarmup" in str(error.value)
