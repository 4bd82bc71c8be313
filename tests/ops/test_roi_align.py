"""RoIAlign against a direct computation, and both implementations against each other."""

import numpy as np
import pytest
import tensorflow as tf

from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.ops.roi_align import assign_levels, roi_align

with light_imports():
    from official.vision.ops import spatial_transform_ops as reference


def _pyramid(channels: int = 3, size: int = 128) -> dict[str, tf.Tensor]:
    return {
        str(level): tf.random.stateless_normal(
            [2, size >> level, size >> level, channels], [level, 1]
        )
        for level in range(2, 7)
    }


def _rois() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    starts = rng.uniform(0, 100, (40, 2))
    boxes = np.concatenate([starts, starts + rng.uniform(0.5, 128, (40, 2))], -1)
    boxes = np.clip(boxes, 0, 128).astype("f")
    boxes[:3] = [[0, 0, 128, 128], [0, 0, 0, 0], [127.5, 127.5, 128, 128]]
    return boxes, rng.integers(0, 2, 40).astype("i")


def _direct(features, boxes, batch, crop, ratio):
    """Sample by sample, as the paper describes it."""
    levels = assign_levels(boxes, 2, 6).numpy()
    crops = np.zeros((len(boxes), crop, crop, 3))
    for m, (box, image, level) in enumerate(zip(boxes, batch, levels, strict=True)):
        feature = features[str(level)].numpy()[image]
        n = feature.shape[0]
        box = box / 2**level
        for i, j in np.ndindex(crop * ratio, crop * ratio):
            y = box[0] + (i + 0.5) * (box[2] - box[0]) / (crop * ratio) - 0.5
            x = box[1] + (j + 0.5) * (box[3] - box[1]) / (crop * ratio) - 0.5
            y, x = np.clip([y, x], 0, n - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, n - 1), min(x0 + 1, n - 1)
            top = feature[y0, x0] * (1 - x + x0) + feature[y0, x1] * (x - x0)
            bottom = feature[y1, x0] * (1 - x + x0) + feature[y1, x1] * (x - x0)
            crops[m, i // ratio, j // ratio] += top * (1 - y + y0) + bottom * (y - y0)
    return crops / ratio**2


@pytest.mark.parametrize("static_shapes", [False, True])
@pytest.mark.parametrize(("crop", "ratio"), [(7, 2), (4, 1)])
def test_equals_the_direct_computation(static_shapes, crop, ratio):
    features, (boxes, batch) = _pyramid(), _rois()
    run = tf.function(roi_align, jit_compile=static_shapes)
    crops = run(features, boxes, batch, crop, ratio, static_shapes=static_shapes)
    np.testing.assert_allclose(crops, _direct(features, boxes, batch, crop, ratio), atol=2e-4)


@pytest.mark.parametrize("static_shapes", [False, True])
def test_a_linear_map_is_sampled_at_bin_centres(static_shapes):
    """On f(y, x) = (y, x) in image pixels a crop gives the centres of its bins: no shift."""
    feature = {
        str(level): tf.stack(
            tf.meshgrid(
                *[(tf.range(256 >> level, dtype=tf.float32) + 0.5) * 2**level] * 2, indexing="ij"
            ),
            axis=-1,
        )[None]
        for level in range(2, 7)
    }
    boxes = tf.constant([[40.0, 60, 96, 130]])
    crops = roi_align(feature, boxes, tf.constant([0]), 7, static_shapes=static_shapes)
    np.testing.assert_allclose(crops[0, :, 0, 0], 40 + 56 * (np.arange(7) + 0.5) / 7, atol=1e-3)
    np.testing.assert_allclose(crops[0, 0, :, 1], 60 + 70 * (np.arange(7) + 0.5) / 7, atol=1e-3)


@pytest.mark.parametrize("static_shapes", [False, True])
def test_model_garden_numerics(static_shapes):
    features, (boxes, _) = _pyramid(), _rois()
    boxes = np.concatenate([boxes[:1], boxes[3:]])  # without the degenerate ones
    boxes = boxes[np.all(boxes[:, 2:] - boxes[:, :2] > 1, -1)]
    grid = np.stack([boxes, boxes[::-1]])
    expected = reference.multilevel_crop_and_resize(features, tf.constant(grid), 7)
    got = roi_align(
        features,
        grid.reshape(-1, 4),
        np.repeat([0, 1], len(boxes)).astype("i"),
        7,
        sampling_ratio=1,
        half_pixel=False,
        static_shapes=static_shapes,
    )
    np.testing.assert_allclose(got, tf.reshape(expected, got.shape), atol=2e-4)


def test_gradients_of_both_implementations_agree():
    features, (boxes, batch) = _pyramid(), _rois()
    gradients = []
    for static_shapes in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(features)
            crops = roi_align(features, boxes, batch, 7, static_shapes=static_shapes)
            loss = tf.reduce_sum(tf.square(crops))
        gradients.append(tape.gradient(loss, features))
    for level in features:
        np.testing.assert_allclose(gradients[0][level], gradients[1][level], atol=1e-3)


def test_gradients_of_many_overlapping_rois_are_exact():
    """Threads that add to the same cell must not lose anything: TensorFlow's crop kernel does."""
    features = {"2": tf.zeros([1, 32, 32, 64]), "3": tf.zeros([1, 16, 16, 64])}
    boxes, batch = tf.tile([[8.0, 8.0, 120.0, 120.0]], [2000, 1]), tf.zeros([2000], tf.int32)
    with tf.GradientTape() as tape:
        tape.watch(features)
        total = tf.reduce_sum(roi_align(features, boxes, batch, 7))
    gradient = tf.add_n(
        [tf.reduce_sum(g, [0, 1, 2]) for g in tape.gradient(total, features).values()]
    )
    np.testing.assert_allclose(gradient, np.full(64, 2000 * 7 * 7), rtol=1e-5)


@pytest.mark.parametrize("static_shapes", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_boxes_of_a_diverged_model_are_no_error(value, static_shapes):
    boxes = np.array([[value] * 4, [0, 0, 20, 20]], "f")
    crops, expected = (
        roi_align(_pyramid(), some, [0] * len(some), 7, static_shapes=static_shapes)
        for some in (boxes, boxes[1:])
    )
    np.testing.assert_array_equal(crops[1:], expected)
    assert np.isfinite(crops).all()


@pytest.mark.parametrize("static_shapes", [False, True])
def test_no_rois_give_no_crops(static_shapes):
    features = _pyramid()
    with tf.GradientTape() as tape:
        tape.watch(features)
        boxes, batch = tf.zeros([0, 4]), tf.zeros([0], tf.int32)
        crops = roi_align(features, boxes, batch, 7, static_shapes=static_shapes)
        total = tf.reduce_sum(crops)
    assert crops.shape == (0, 7, 7, 3)
    for gradient in tape.gradient(total, features).values():
        np.testing.assert_array_equal(gradient, tf.zeros_like(gradient))


def test_half_precision_features_give_half_precision_crops():
    features = {level: tf.cast(f, tf.bfloat16) for level, f in _pyramid().items()}
    boxes, batch = _rois()
    for static_shapes in (False, True):
        crops = roi_align(features, boxes, batch, 7, static_shapes=static_shapes)
        assert crops.dtype == tf.bfloat16
