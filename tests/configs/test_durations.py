"""Lengths in epochs become steps, and learning rates follow the batch size, when asked to."""

import pytest

from official_maskrcnn.configs import durations
from official_maskrcnn.configs.loading import load_experiment
from official_maskrcnn.errors import UserError

RESNET = "deep_mask_head_rcnn_resnetfpn_coco"
OPTIMIZATION = "trainer.optimizer_config"
COCO_EXAMPLES = 118287


def _resolve(overrides: str, examples: int = COCO_EXAMPLES):
    return durations.resolve(load_experiment(RESNET, overrides=overrides), lambda: examples)


def test_epochs_become_steps_of_the_global_batch():
    trainer = _resolve("trainer.train_epochs=12,trainer.boundary_epochs=[8, 11.5]").trainer
    assert trainer.train_steps == 22179  # 12 * 118287 / 64
    schedule = trainer.optimizer_config.learning_rate.stepwise
    assert schedule.boundaries == [14786, 21255]
    assert trainer.train_epochs is None
    assert trainer.boundary_epochs is None


def test_boundaries_of_a_short_training_stay_inside_it():
    trainer = _resolve("trainer.train_epochs=3.2,trainer.boundary_epochs=[1,2.6]", 64).trainer
    assert trainer.train_steps == 3  # and 2.6 epochs are nearer to 3 steps than to 2
    assert trainer.optimizer_config.learning_rate.stepwise.boundaries == [1, 2]
    with pytest.raises(UserError, match=r"\[1, 1\] given; must lie below trainer.train_steps 1\n"):
        _resolve("trainer.train_epochs=1,trainer.boundary_epochs=[0.3,0.6]", 64)


def test_steps_need_no_data_and_stay():
    def count() -> int:
        raise AssertionError("counted")

    experiment = load_experiment(RESNET)
    resolved = durations.resolve(experiment, count)
    assert resolved.as_dict() == experiment.as_dict()
    assert resolved is not experiment


def test_a_fraction_of_an_epoch_is_at_least_a_step():
    overrides = f"trainer.train_epochs=0.001,{OPTIMIZATION}.learning_rate.stepwise={{}}"
    overrides += f",{OPTIMIZATION}.learning_rate.type=constant"
    overrides += f",{OPTIMIZATION}.learning_rate.constant.learning_rate=0.1"
    assert _resolve(overrides, examples=10).trainer.train_steps == 1


def test_boundaries_beyond_the_epochs_are_refused():
    with pytest.raises(UserError) as error:
        _resolve("trainer.train_epochs=1")
    assert "[15000, 20000] given; must lie below trainer.train_steps 1848" in str(error.value)


def test_a_later_stage_replaces_the_other_unit():
    epochs = load_experiment(RESNET, overrides=["trainer.train_epochs=3"])
    assert (epochs.trainer.train_steps, epochs.trainer.train_epochs) == (0, 3.0)
    steps = load_experiment(
        RESNET, overrides=["trainer.train_epochs=3", "trainer.train_steps=30000"]
    )
    assert (steps.trainer.train_steps, steps.trainer.train_epochs) == (30000, None)


def test_decay_over_the_whole_training():
    cosine = "{type: cosine, cosine: {initial_learning_rate: 0.1}}"
    overrides = f"{OPTIMIZATION}.learning_rate={cosine}"
    schedule = _resolve(overrides).trainer.optimizer_config.learning_rate
    assert schedule.cosine.decay_steps == 22500
    assert _resolve(
        f"{overrides},trainer.train_epochs=2"
    ).trainer.optimizer_config.learning_rate.get().decay_steps == round(2 * COCO_EXAMPLES / 64)


def test_learning_rates_follow_the_batch_size_only_when_asked_to():
    overrides = "trainer.learning_rate_batch_size=16"
    resolved = _resolve(overrides).trainer
    assert resolved.optimizer_config.learning_rate.stepwise.values == pytest.approx(
        [0.48, 0.048, 0.0048]
    )
    assert resolved.optimizer_config.warmup.linear.warmup_learning_rate == pytest.approx(0.0268)
    assert resolved.learning_rate_batch_size is None  # so that saved values are not scaled again


def test_resolving_twice_is_resolving_once():
    once = _resolve("trainer.train_epochs=30,trainer.learning_rate_batch_size=16")
    assert durations.resolve(once, lambda: 1).as_dict() == once.as_dict()
