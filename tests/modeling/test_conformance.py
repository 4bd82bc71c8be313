"""Every registered mask head and backbone keeps its contract, alone and in the model."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from official_maskrcnn import UserError, load_experiment
from official_maskrcnn.configs.model import DeepMaskHead
from official_maskrcnn.modeling import backbones
from official_maskrcnn.modeling.heads import MASK_HEADS, LayerOptions, MaskHead
from official_maskrcnn.tasks import build_task

_SIZE = 128
# Compiling or building the deep ones takes a minute each.
_FAST = {"default", "hourglass20", "mobilenet", "resnet", "spinenet_mobile"}


def _all(names: list[str]) -> list:
    return [n if n in _FAST else pytest.param(n, marks=pytest.mark.slow) for n in names]


_SMALLEST = {
    "efficientnet": "task.model.backbone.efficientnet.model_id=b0",
    "mobiledet": "task.model.backbone.mobiledet.model_id=MobileDetCPU",
    "mobilenet": "task.model.backbone.mobilenet.model_id=MobileNetV2",
    "resnet": "task.model.backbone.resnet.model_id=18",
    "revnet": "task.model.backbone.revnet.model_id=38",
    "spinenet": "task.model.backbone.spinenet.model_id=49S",
    "spinenet_mobile": "task.model.backbone.spinenet_mobile.model_id=49XS",
}
_COMMON = (
    f"task.init_checkpoint=null,task.model.input_size=[{_SIZE},{_SIZE},3],task.model.num_classes=5,"
    "task.model.mask_head.num_filters=8,task.model.detection_head.num_convs=1,"
    "task.model.detection_head.num_filters=16,task.model.detection_head.fc_dims=16,"
    "task.model.roi_sampler.num_sampled_rois=16,task.model.roi_generator.num_proposals=30,"
    "task.model.roi_generator.test_num_proposals=30,task.model.roi_generator.pre_nms_top_k=60,"
    "task.model.detection_generator.pre_nms_top_k=60,task.model.mask_sampler.num_sampled_masks=4,"
    "task.model.detection_generator.max_num_detections=5,runtime.mixed_precision_dtype=null,"
)


def _experiment(*overrides: str, backbone: str = "resnet", decoder: str = "fpn"):
    parts = [f"task.model.backbone.type={backbone},{_SMALLEST[backbone]}"]
    if backbone.startswith("spinenet"):
        parts.append("task.model.min_level=3,task.model.max_level=7")
        decoder = "identity"
    elif decoder == "nasfpn":
        parts.append("task.model.min_level=3,task.model.max_level=7")
    elif backbone != "resnet":
        parts.append("task.model.min_level=3")
    parts.append(f"task.model.decoder.type={decoder}")
    if decoder != "identity":
        parts.append(f"task.model.decoder.{decoder}.num_filters=16")
    return load_experiment(
        "deep_mask_head_rcnn_resnetfpn_coco", overrides=_COMMON + ",".join([*parts, *overrides])
    )


def _batch() -> dict[str, tf.Tensor]:
    boxes = np.full((2, 4, 4), -1.0, "f")
    classes = np.full((2, 4), -1, "i")
    boxes[0, :2] = [[8, 10, 60, 70], [40, 30, 120, 120]]
    boxes[1, :1] = [[20, 20, 100, 90]]
    classes[0, :2], classes[1, 0] = [1, 3], 4
    info = [[[_SIZE, _SIZE], [_SIZE, _SIZE], [1, 1], [0, 0]]] * 2
    return {
        "image": tf.random.stateless_normal([2, _SIZE, _SIZE, 3], [1, 2]),
        "image_info": tf.constant(info, tf.float32),
        "boxes": tf.constant(boxes),
        "classes": tf.constant(classes),
        "masks": tf.ones([2, 4, 112, 112], tf.uint8),
        "mask_valid": tf.constant(classes > 0),
        "num_truncated": tf.zeros([2], tf.int32),
        "source_id": tf.constant([1, 2], tf.int64),
    }


def _train_save_restore(experiment, folder, jit_compile=False):
    """One training step moves the weights, and a checkpoint brings them and the outputs back."""
    task = build_task(experiment)
    train_step, eval_step = task.train_step, task.eval_step
    if jit_compile:
        train_step = tf.function(train_step, jit_compile=True)
        eval_step = tf.function(eval_step, jit_compile=True)
    model = task.build_model()
    optimizer = task.build_optimizer(experiment.trainer.optimizer_config)
    before = [v.numpy() for v in model.trainable_variables]
    batch = _batch()
    logs = train_step(batch, model, optimizer)
    assert all(np.isfinite(value) for value in logs.values()), logs
    assert logs["mask_loss"] > 0.1
    moved = [np.any(v.numpy() != b) for v, b in zip(model.trainable_variables, before, strict=True)]
    assert np.mean(moved) > 0.9

    path = tf.train.Checkpoint(model=model).write(str(folder / "checkpoint"))
    restored = task.build_model()
    tf.train.Checkpoint(model=restored).read(path).assert_consumed()
    expected, got = eval_step(batch, model), eval_step(batch, restored)
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, atol=1e-5, err_msg=key)


@pytest.fixture
def float64():
    tf_keras.mixed_precision.set_global_policy("float64")
    yield
    tf_keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("variant", _all(MASK_HEADS.names()))
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_mask_head(variant, jit_compile, float64):
    """Builds, takes a step under both compilers, keeps padding out, tells its RoI size.

    In float64, as what float32 loses where sums come in another order grows through a hundred
    normalisations.
    """
    side = max(MASK_HEADS.get(variant).roi_size_multiple, 8)
    num_real, num_padding = 12, 4
    features = tf.random.stateless_normal(
        [num_real + num_padding, side, side, 8], [1, 2], dtype=tf.float64
    )
    classes = tf.range(num_real + num_padding) % 5
    weights = tf.concat([tf.ones([num_real]), tf.zeros([num_padding])], axis=0)
    config = DeepMaskHead(convnet_variant=variant, num_filters=4)
    head = MaskHead(config, 5, LayerOptions(momentum=0.5))
    head(features[:1], classes[:1])

    @tf.function(jit_compile=jit_compile)
    def step(features, classes, weights):
        with tf.GradientTape() as tape:
            logits = head(features, classes, training=True, weights=weights)
            real = tf.cast(weights, logits.dtype)[:, None, None]
            loss = tf.reduce_sum(tf.square(logits) * real)
        return logits, tape.gradient(loss, head.trainable_variables)

    initial = head.get_weights()
    logits, gradients = step(features, classes, weights)
    assert logits.shape == (num_real + num_padding, 2 * side, 2 * side)
    assert all(g is not None and np.all(np.isfinite(g)) for g in gradients)
    after = head.get_weights()
    # What lies in the padding must not matter, neither for outputs nor for moving statistics.
    head.set_weights(initial)
    garbage = tf.concat([features[:num_real], 100.0 + features[num_real:]], axis=0)
    np.testing.assert_allclose(
        step(garbage, classes, weights)[0][:num_real], logits[:num_real], atol=1e-7
    )
    for with_garbage, without in zip(head.get_weights(), after, strict=True):
        np.testing.assert_allclose(with_garbage, without, atol=1e-7, rtol=1e-7)
    head.set_weights(initial)
    dense = head(features[:num_real], classes[:num_real], training=True)
    np.testing.assert_allclose(dense, logits[:num_real], atol=1e-7)


@pytest.mark.parametrize("variant", _all(MASK_HEADS.names()))
def test_model_with_mask_head(variant, tmp_path):
    multiple = MASK_HEADS.get(variant).roi_size_multiple
    _train_save_restore(
        _experiment(
            f"task.model.mask_head.convnet_variant={variant}",
            f"task.model.mask_roi_aligner.crop_size={max(multiple, 8)}",
            "task.model.use_gt_boxes_for_masks=true",
        ),
        tmp_path,
    )


@pytest.mark.parametrize("name", _all(sorted(backbones.BACKBONE_MODELS)))
def test_model_with_backbone(name, tmp_path):
    _train_save_restore(_experiment(backbone=name), tmp_path)


@pytest.mark.parametrize("name", _all(sorted(backbones.BACKBONE_MODELS)))
def test_backbone_compiles_with_xla(name):
    config = _experiment(backbone=name).task.model
    model = backbones.build_backbone(config, config.norm_activation, None)
    images = tf.random.stateless_normal([1, _SIZE, _SIZE, 3], [1, 2])

    @tf.function(jit_compile=True)
    def gradients(images):
        with tf.GradientTape() as tape:
            features = model(images, training=True)
            loss = tf.add_n([tf.reduce_mean(tf.square(f)) for f in features.values()])
        return tape.gradient(loss, model.trainable_variables)

    values = [g for g in gradients(images) if g is not None]
    assert values and all(np.all(np.isfinite(g)) for g in values)


@pytest.mark.slow
def test_model_with_nasfpn(tmp_path):
    _train_save_restore(_experiment(decoder="nasfpn"), tmp_path)


def test_cascade_and_class_agnostic_boxes(tmp_path):
    _train_save_restore(
        _experiment(
            "task.model.roi_sampler.cascade_iou_thresholds=[0.6,0.7]",
            "task.model.detection_head.class_agnostic_bbox_pred=true",
            "task.model.detection_head.cascade_class_ensemble=true",
        ),
        tmp_path,
    )


def test_model_compiles_with_xla(tmp_path):
    _train_save_restore(_experiment("runtime.enable_xla=true"), tmp_path, jit_compile=True)


def test_roi_size_that_the_head_cannot_take_is_refused_with_both_numbers():
    with pytest.raises(UserError, match=r"crop_size \(14\) must be a multiple of 32 .*hourglass52"):
        _experiment("task.model.mask_head.convnet_variant=hourglass52")


def test_unknown_head_names_the_nearest():
    with pytest.raises(UserError, match="did you mean hourglass52"):
        MASK_HEADS.get("hourglas52")
