"""Parity with tf-models-official: the same weights give the same outputs and losses."""

import numpy as np
import pytest
import tensorflow as tf

from official_maskrcnn import load_experiment
from official_maskrcnn.modeling import mask_rcnn
from official_maskrcnn.modeling.batch_norm import freeze_batch_norm
from official_maskrcnn.modeling.mask_rcnn import MaskRCNN
from official_maskrcnn.ops import anchors as anchor_ops
from official_maskrcnn.tasks import build_task, losses
from tests.modeling.reference import build_reference, copy_weights, randomize

_SMALL = (
    "task.init_checkpoint=null,task.model.compatibility=model_garden,"
    "task.model.detection_generator.max_num_detections=20,"
    "task.model.detection_generator.pre_nms_score_threshold=0.001,"
    "task.model.roi_generator.test_num_proposals=60,task.model.num_classes=7,"
    "task.allowed_mask_class_ids=null,"
)
_TINY = _SMALL + (
    "task.model.backbone.resnet.model_id=18,task.model.decoder.fpn.num_filters=32,"
    "task.model.detection_head.num_filters=16,task.model.detection_head.fc_dims=32,"
    "task.model.mask_head.num_filters=16,"
)
_RESNET, _SPINENET = "deep_mask_head_rcnn_resnetfpn_coco", "deep_mask_head_rcnn_spinenet_coco"


def _info(size: int, batch: int) -> tf.Tensor:
    return tf.constant([[[size, size], [size, size], [1, 1], [0, 0]]] * batch, tf.float32)


def _assert_same_inference(experiment, folder, size):
    config = experiment.task
    _, reference = build_reference(config)
    randomize(reference)
    ours = MaskRCNN(config.model, config.losses.l2_weight_decay)
    assert ours.count_params() == reference.count_params()
    copy_weights(reference, ours, folder)

    images = tf.random.stateless_normal([2, size, size, 3], [1, 2])
    info = _info(size, 2)
    expected = reference(images, image_shape=info[:, 1], training=False)
    got = ours(images, info, training=False)
    count = expected["num_detections"].numpy()
    assert count.min() >= 5, "the comparison needs detections"
    np.testing.assert_array_equal(got["num_detections"], count)
    for image, n in enumerate(count):
        _assert_same_detections(
            {key: value[image, :n].numpy() for key, value in got.items() if value.shape.rank > 1},
            {key: expected[key][image, :n].numpy() for key in _COMPARED},
        )


_COMPARED = ("detection_scores", "detection_classes", "detection_boxes", "detection_masks")


def _assert_same_detections(got, expected):
    """Equal to 1e-4 and 1e-5 of a box's largest coordinate.

    Whatever the order of equal scores, and which of those were cut off last.
    """
    scores = expected["detection_scores"]
    np.testing.assert_allclose(got["detection_scores"], scores, atol=1e-4)
    certain = np.flatnonzero(scores > scores[-1] + 1e-5)
    assert certain.size >= 5
    for i in certain:
        distance = np.abs(got["detection_boxes"] - expected["detection_boxes"][i]).max(axis=-1)
        distance[got["detection_classes"] != expected["detection_classes"][i]] = np.inf
        j = int(np.argmin(distance))
        for key in _COMPARED:
            largest = np.abs(expected[key][i]).max()
            np.testing.assert_allclose(
                got[key][j], expected[key][i], rtol=0, atol=1e-4 + 1e-5 * largest, err_msg=key
            )


@pytest.mark.parametrize(
    ("experiment", "config_file"),
    [
        (_RESNET, "deep_mask_head_rcnn_voc_r50"),
        (_RESNET, "deep_mask_head_rcnn_voc_r50_hg52"),
        pytest.param(_RESNET, "deep_mask_head_rcnn_voc_r101_hg52", marks=pytest.mark.slow),
        pytest.param(_SPINENET, "deep_mask_head_rcnn_voc_spinenet143_hg52", marks=pytest.mark.slow),
    ],
)
def test_published_rows_give_the_same_detections(experiment, config_file, tmp_path):
    size = 128
    config = load_experiment(
        experiment,
        [f"configs/{config_file}.yaml"],
        _SMALL + f"task.model.input_size=[{size},{size},3]",
    )
    _assert_same_inference(config, tmp_path, size)


@pytest.mark.parametrize(
    ("variant", "class_agnostic"),
    [
        ("default", False),
        ("hourglass20", True),
        pytest.param("default", True, marks=pytest.mark.slow),
        pytest.param("hourglass20", False, marks=pytest.mark.slow),
        pytest.param("hourglass52", True, marks=pytest.mark.slow),
        pytest.param("hourglass52", False, marks=pytest.mark.slow),
        pytest.param("hourglass100", True, marks=pytest.mark.slow),
        pytest.param("hourglass100", False, marks=pytest.mark.slow),
    ],
)
def test_heads_give_the_same_detections(variant, class_agnostic, tmp_path):
    crop = 14 if variant == "default" else 32
    config = load_experiment(
        _RESNET,
        overrides=_TINY
        + f"task.model.mask_head.convnet_variant={variant},"
        + f"task.model.mask_head.class_agnostic={class_agnostic},"
        + f"task.model.mask_roi_aligner.crop_size={crop},task.model.input_size=[128,128,3]",
    )
    _assert_same_inference(config, tmp_path, 128)


def _groundtruth(size: int) -> dict[str, tf.Tensor]:
    """Two images with 3 and 1 instances in 6 slots."""
    rng = np.random.default_rng(3)
    boxes = np.full((2, 6, 4), -1.0, "f")
    classes = np.full((2, 6), -1, "i")
    boxes[0, :3] = [[8, 10, 60, 70], [40, 30, size, size], [5, 80, 50, 120]]
    boxes[1, :1] = [[20, 20, 100, 90]]
    classes[0, :3], classes[1, :1] = [1, 5, 2], [6]
    masks = (rng.uniform(size=(2, 6, 112, 112)) > 0.5).astype("uint8")
    return {
        "boxes": tf.constant(boxes),
        "classes": tf.constant(classes),
        "masks": tf.constant(masks),
        "mask_valid": tf.constant(classes > 0),
    }


@pytest.fixture(scope="module", params=[True, False], ids=["gt_boxes", "proposals"])
def trained_pair(request, tmp_path_factory):
    """Both models with the same weights and frozen batch norm, and ours run on a training batch."""
    size = 128
    experiment = load_experiment(
        _RESNET,
        overrides=_TINY
        + f"task.model.use_gt_boxes_for_masks={request.param},task.model.input_size=[128,128,3],"
        + "task.model.norm_activation.frozen=true,task.model.roi_sampler.num_sampled_rois=32,"
        # Smooth, so that no gradient hangs on which side of 0 rounding puts a feature.
        + "task.model.norm_activation.activation=swish,"
        + "task.model.mask_sampler.num_sampled_masks=8,runtime.mixed_precision_dtype=null",
    )
    task = build_task(experiment)
    reference_task, reference = build_reference(experiment.task)
    randomize(reference)
    freeze_batch_norm(reference)
    ours = task.build_model()
    copy_weights(reference, ours, tmp_path_factory.mktemp("weights"))
    images = tf.random.stateless_normal([2, size, size, 3], [1, 2])
    groundtruth = _groundtruth(size)
    seeds = tf.constant([4, 5], tf.uint32)
    outputs = ours(images, _info(size, 2), groundtruth=groundtruth, seeds=seeds, training=True)
    return task, ours, outputs, groundtruth, seeds, reference_task, reference, images


def test_losses_are_the_same_on_the_same_rois(trained_pair):
    task, ours, outputs, groundtruth, seeds, reference_task, reference, images = trained_pair
    got = task.compute_losses(ours, outputs, groundtruth, seeds)

    features = reference.decoder(reference.backbone(images, training=True), training=True)
    rpn_scores, rpn_boxes = reference.rpn_head(features)
    labels = outputs.stages[0].labels
    crops = reference.roi_aligner(features, labels.rois)
    class_outputs, box_outputs = reference.detection_head[0](crops)
    rpn_targets = _rpn_targets(task, ours, groundtruth, seeds, rpn_scores)
    rois, classes, targets = _padded_mask_examples(task, outputs, groundtruth)
    mask_logits = reference.mask_head([reference.mask_roi_aligner(features, rois), classes])
    expected = reference_task.build_losses(
        {
            "rpn_scores": rpn_scores,
            "rpn_boxes": rpn_boxes,
            "class_outputs": class_outputs,
            "class_targets": labels.classes,
            "box_outputs": box_outputs,
            "box_targets": labels.box_targets,
            "mask_outputs": mask_logits,
            "mask_targets": targets,
            "mask_class_targets": classes,
        },
        rpn_targets,
        aux_losses=reference.losses,
    )
    for name in ("rpn_score_loss", "rpn_box_loss", "frcnn_cls_loss", "frcnn_box_loss", "mask_loss"):
        assert float(got[name]) > 1e-4, name
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(got["model_loss"], expected["model_loss"], atol=1e-5)


def _rpn_targets(task, ours, groundtruth, seeds, rpn_scores):
    anchors = tf.concat(list(ours.anchors.values()), axis=1)
    scores, boxes, _ = anchor_ops.label_anchors(
        anchors, groundtruth["boxes"], groundtruth["classes"] > 0, seeds
    )
    sizes = [level.shape[1] for level in ours.anchors.values()]
    shapes = {level: rpn_scores[level].shape for level in ours.anchors}
    levels = zip(
        ours.anchors, tf.split(scores, sizes, axis=1), tf.split(boxes, sizes, axis=2), strict=True
    )
    targets = {"rpn_score_targets": {}, "rpn_box_targets": {}}
    for level, score, box in levels:
        b, h, w, a = shapes[level]
        score = tf.reshape(score, [b, a, h, w])
        targets["rpn_score_targets"][level] = tf.transpose(score, [0, 2, 3, 1])
        box = tf.transpose(tf.reshape(box, [b, 4, a, h, w]), [0, 3, 4, 2, 1])
        targets["rpn_box_targets"][level] = tf.reshape(box, [b, h, w, a * 4])
    return targets


def _padded_mask_examples(task, outputs, groundtruth):
    """The RoIs of the packed mask set, back in a padded [b, n] grid as the reference has it."""
    masks = outputs.masks
    if task.config.model.use_gt_boxes_for_masks:
        rois = tf.maximum(groundtruth["boxes"], 0.0)
        classes = tf.maximum(groundtruth["classes"], 0)
        chosen = groundtruth["mask_valid"].numpy()
    else:
        labels = outputs.stages[0].labels
        chosen = labels.classes.numpy() > 0
        chosen &= np.cumsum(chosen, axis=1) <= task.config.model.mask_sampler.num_sampled_masks
        rois, classes = labels.rois, tf.where(chosen, labels.classes, 0)
    assert chosen.sum() == masks.logits.shape[0]
    side = masks.targets.shape[1]
    targets = tf.scatter_nd(np.argwhere(chosen), masks.targets, [*chosen.shape, side, side])
    return rois, classes, targets


def test_packed_equals_padded(trained_pair):
    """Loss and gradients of the packed mask head are those of the padded reference head."""
    task, ours, outputs, groundtruth, _, _, reference, images = trained_pair
    rois, classes, targets = _padded_mask_examples(task, outputs, groundtruth)
    features = reference.decoder(reference.backbone(images, training=True), training=True)
    features = {level: tf.identity(value) for level, value in features.items()}
    variables = reference.mask_head.trainable_variables
    with tf.GradientTape() as tape:
        tape.watch(features)
        logits = reference.mask_head([reference.mask_roi_aligner(features, rois), classes])
        weights = tf.cast(classes > 0, tf.float32)[..., None, None]
        loss = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits) * weights
        expected = tf.reduce_sum(loss) / (tf.reduce_sum(weights) * logits.shape[2] ** 2 + 0.01)
    expected_gradients = tape.gradient(expected, [variables, features])

    labels = outputs.stages[-1].labels
    size = tf.constant([[128.0, 128.0]] * 2)
    for static_shapes in (False, True):
        ours.static_shapes = static_shapes
        with tf.GradientTape() as tape:
            tape.watch(features)
            found = mask_rcnn._Proposals(features, {}, {}, labels.rois, None, size)
            packed = ours._masks_with_targets(found, labels, groundtruth, training=True)
            got = losses.mask_loss(packed)
        gradients = tape.gradient(got, [ours.mask_head.trainable_variables, features])
        np.testing.assert_allclose(got, expected, atol=1e-5)
        _assert_same_gradients(gradients[0], expected_gradients[0])
        _assert_same_gradients(
            [gradients[1][level] for level in features],
            [expected_gradients[1][level] for level in features],
        )
    ours.static_shapes = False


def _assert_same_gradients(got, expected):
    """Equal to 1e-5 of the largest."""
    assert len(got) == len(expected)
    largest = max(float(tf.reduce_max(tf.abs(e))) for e in expected)
    for ours, theirs in zip(got, expected, strict=True):
        ours, theirs = tf.convert_to_tensor(ours), tf.convert_to_tensor(theirs)
        np.testing.assert_allclose(ours / largest, theirs / largest, atol=1e-5)
