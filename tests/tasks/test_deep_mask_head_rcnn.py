"""The task: which masks train, what the data may hold, and one real training step."""

import numpy as np
import pytest
import tensorflow as tf

from official_maskrcnn import UserError, build_task, load_experiment, run
from official_maskrcnn.configs.model import DeepMaskHeadRCNN
from official_maskrcnn.data.synthetic import make_synthetic
from official_maskrcnn.modeling.mask_rcnn import static_mask_rois

_TINY = (
    "task.init_checkpoint=null,task.model.input_size=[128,128,3],"
    "task.model.backbone.resnet.model_id=18,task.model.decoder.fpn.num_filters=16,"
    "task.model.detection_head.num_convs=0,task.model.detection_head.fc_dims=16,"
    "task.model.mask_head.num_convs=1,task.model.mask_head.num_filters=8,"
    "task.model.roi_sampler.num_sampled_rois=16,task.model.mask_sampler.num_sampled_masks=8,"
    "task.model.roi_generator.num_proposals=30,task.model.roi_generator.test_num_proposals=30,"
    "task.train_data.global_batch_size=2,task.validation_data.global_batch_size=2,"
    "task.train_data.dtype=float32,task.validation_data.dtype=float32,"
    "runtime.mixed_precision_dtype=null,runtime.distribution_strategy=one_device"
)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    make_synthetic(folder, num_images=5, seed=1, image_size=(96, 128))
    return folder


def _experiment(shapes, *overrides: str, num_classes: int = 40):
    data = ",".join(
        f"task.{split}.image_dir={shapes}/images,task.{split}.annotation_file={shapes}/instances.json,"
        f"task.{split}.cache_dir={shapes}/cache"
        for split in ("train_data", "validation_data")
    )
    data += f",task.model.num_classes={num_classes}"
    return load_experiment(
        "deep_mask_head_rcnn_resnetfpn_coco", overrides=",".join([_TINY, data, *overrides])
    )


def test_only_allowed_classes_train_masks(shapes):
    task = build_task(_experiment(shapes, "task.allowed_mask_class_ids=[1,3]"))
    batch = next(iter(task.build_inputs(task.config.train_data)))
    classes = tf.constant([[1, 2, 3, 5, -1], [2, 2, -1, -1, -1]])
    batch = {
        **batch,
        "classes": classes,
        "boxes": tf.zeros([2, 5, 4]),
        "masks": tf.ones([2, 5, 8, 8], tf.uint8),
        "mask_valid": tf.constant([[True, True, False, True, False], [True, True] + [False] * 3]),
    }
    prepared = task._prepare(batch)
    assert prepared["classes"].shape == (2, 4)  # the slot that no image uses is gone
    assert prepared["mask_valid"].numpy().tolist() == [[True, False, False, False], [False] * 4]


def test_no_class_may_have_masks_and_a_model_of_boxes_has_none(shapes):
    batch = {"classes": tf.constant([[1, 2, -1]]), "mask_valid": tf.constant([[True, True, False]])}
    task = build_task(_experiment(shapes, "task.allowed_mask_class_ids=[]"))
    assert not task._prepare(batch)["mask_valid"].numpy().any()
    del batch["mask_valid"]
    options = "task.allowed_mask_class_ids=[1],task.model.include_mask=false"
    assert list(build_task(_experiment(shapes, options))._prepare(batch)) == ["classes"]


def test_train_and_eval_on_real_records_then_eval_gives_the_same(shapes, tmp_path):
    experiment = _experiment(
        shapes,
        "task.allowed_mask_class_ids=[1,2,3,5,7,8]",
        "task.model.use_gt_boxes_for_masks=true,task.per_category_metrics=true",
        "trainer.train_steps=2,trainer.steps_per_loop=1,trainer.checkpoint_interval=2",
        "trainer.validation_interval=2,trainer.summary_interval=1,task.export_results=true",
        "trainer.optimizer_config.learning_rate.stepwise.boundaries=[1]",
        "trainer.optimizer_config.learning_rate.stepwise.values=[0.001,0.0001]",
    )
    metrics = run(experiment, "train_and_eval", str(tmp_path))
    assert {"box/AP", "mask/AP", "mask/AP50", "mask/AP/seen", "mask/AP/unseen"} <= set(metrics)
    assert (tmp_path / "predictions" / "2.png").stat().st_size > 1000
    assert (tmp_path / "results_2.json").exists()
    again = run(experiment, "eval", str(tmp_path))
    for name, value in metrics.items():
        np.testing.assert_allclose(again[name], value, atol=1e-6, err_msg=name)


def test_validation_losses_are_those_of_a_model_at_rest(shapes):
    names = ("image", "boxes", "classes", "masks", "mask_valid", "source_id", "image_info")
    task = build_task(_experiment(shapes, "task.validation_losses=true"))
    model = task.build_model()
    batch = next(iter(task.build_inputs(task.config.validation_data)))
    before = [weight.numpy() for weight in model.weights]
    outputs = task.eval_step(batch, model)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)  # moving statistics did not move
    losses = {name: outputs.pop(name).numpy() for name in list(outputs) if name.endswith("loss")}
    assert {"total_loss", "mask_loss", "frcnn_box_loss", "rpn_score_loss"} <= set(losses)
    assert all(loss.shape == (2,) and np.isfinite(loss).all() for loss in losses.values())
    again = task.eval_step({name: batch[name] for name in (*names, "num_truncated")}, model)
    for name, loss in losses.items():
        np.testing.assert_array_equal(again[name], loss)
    task.config.validation_losses = False
    plain = task.eval_step(batch, model)
    assert set(plain) == set(outputs)
    for name, value in plain.items():
        np.testing.assert_allclose(outputs[name], value, atol=1e-5)


def test_a_category_id_beyond_the_model_is_a_readable_error(shapes, tmp_path):
    """Before the run from the annotations; from records, which do not name them, when it is met."""
    experiment = _experiment(
        shapes,
        "trainer.train_steps=2",
        "trainer.optimizer_config.learning_rate.stepwise.boundaries=[1]",
        "trainer.optimizer_config.learning_rate.stepwise.values=[0.001,0.0001]",
        num_classes=2,
    )
    with pytest.raises(UserError, match=r"num_classes: 2 given, but .* category id 29 \(bolt\)"):
        run(experiment, "train", str(tmp_path))
    with pytest.raises(UserError, match=r"category id beyond task.model.num_classes \(2\)"):
        run(experiment, "train", str(tmp_path), build_task(experiment))


def test_a_missing_annotation_file_is_named(shapes):
    task = build_task(_experiment(shapes, "task.annotation_file=/nowhere/instances.json"))
    with pytest.raises(UserError, match=r"/nowhere/instances\.json does not exist"):
        task.build_evaluator()


@pytest.mark.parametrize(
    ("on_boxes", "per_image", "batch_size", "slots", "expected"),
    [
        (True, None, 1, 100, 48),
        (True, None, 2, 100, 48),
        (True, None, 8, 100, 192),
        (True, None, 1, 20, 20),
        (True, 10, 2, 100, 20),
        (False, None, 2, 512, 256),
        (False, 40, 2, 512, 80),
    ],
)
def test_room_for_masks_where_shapes_are_static(on_boxes, per_image, batch_size, slots, expected):
    config = DeepMaskHeadRCNN(use_gt_boxes_for_masks=on_boxes)
    config.mask_sampler.static_rois_per_image = per_image
    assert static_mask_rois(config, batch_size, slots) == expected
