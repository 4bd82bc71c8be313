"""One example: geometry to a pixel, odd records, and the reference's numbers."""

import contextlib
import pathlib
import resource
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from official_maskrcnn.configs.task import DataConfig, DataDecoder, Parser, TfExampleDecoder
from official_maskrcnn.data import parser
from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.ops import drawing
from tests.data.example_records import make_example, png

with light_imports():
    from official.vision.ops import preprocess_ops

_MEAN, _STDDEV = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def _config(is_training: bool = False, **parser_fields) -> DataConfig:
    return DataConfig(
        is_training=is_training,
        dtype="float32",
        parser=Parser(**{"mask_crop_size": 28, "max_num_instances": 8, **parser_fields}),
    )


def _parse(example: bytes, config: DataConfig, size=(64, 64), seed=0, include_mask=True) -> dict:
    seed = tf.constant([0, seed], tf.int64)
    parsed = parser.parse_example(tf.constant(example), seed, config, size, include_mask)
    return {key: value.numpy() for key, value in parsed.items()}


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, [height, width, 3], np.uint8)


@pytest.mark.parametrize("shape", [(48, 80), (200, 90), (64, 64), (3, 300), (63, 65)])
def test_evaluation_image_equals_the_reference(shape):
    image, size = _noise(*shape), (96, 128)
    normalized = preprocess_ops.normalize_image(tf.constant(image))
    expected, expected_info = preprocess_ops.resize_and_crop_image(normalized, size, size)
    parsed = _parse(make_example(image), _config(), size)
    np.testing.assert_allclose(parsed["image"], expected, atol=1e-5)
    np.testing.assert_allclose(parsed["image_info"], expected_info, atol=1e-6)
    alone, info = parser.preprocess_image(tf.constant(image), size)
    np.testing.assert_array_equal(alone, parsed["image"])
    np.testing.assert_array_equal(info, parsed["image_info"])


def test_training_jitter_equals_the_reference(monkeypatch):
    """With the reference's random numbers in place of ours, image and image_info are the same."""
    image, size = _noise(70, 100), (64, 96)
    draws: list[tf.Tensor] = []
    uniform = tf.random.uniform

    def recording_uniform(*args, **kwargs):
        draws.append(uniform(*args, **kwargs))
        return draws[-1]

    def replay(shape, seed, minval=0.0, maxval=1.0):
        del seed, minval, maxval
        return draws.pop(0) if draws else tf.ones(shape)  # then the flips: none

    config = _config(True, aug_scale_min=0.4, aug_scale_max=2.5)
    for _ in range(8):
        monkeypatch.setattr(tf.random, "uniform", recording_uniform)
        normalized = preprocess_ops.normalize_image(tf.constant(image))
        expected, info = preprocess_ops.resize_and_crop_image(
            normalized, size, size, aug_scale_min=0.4, aug_scale_max=2.5
        )
        monkeypatch.setattr(tf.random, "stateless_uniform", replay)
        parsed = _parse(make_example(image), config, size)
        np.testing.assert_allclose(parsed["image_info"], info, atol=1e-6)
        np.testing.assert_allclose(parsed["image"], expected, atol=1e-4)
        monkeypatch.undo()


def test_jitter_and_flips_are_distributed_as_configured():
    config = Parser(aug_rand_hflip=True, aug_scale_min=0.5, aug_scale_max=2.0)
    size = tf.constant([100.0, 200.0])
    placements = [
        parser.random_placement(size, (100, 200), config, tf.constant([0, i], tf.int64))
        for i in range(300)
    ]
    scales = np.array([p.scale for p in placements])
    assert scales.min() == pytest.approx(0.5, abs=0.03) and scales.max() == pytest.approx(
        2, abs=0.03
    )
    assert scales.mean() == pytest.approx(1.25, abs=0.08)
    flips = np.array([p.flips for p in placements])
    assert not flips[:, 0].any() and 0.4 < flips[:, 1].mean() < 0.6
    offsets = np.array([p.offset for p in placements])
    assert (offsets[scales[:, 0] <= 1] == 0).all()
    room = np.round(np.array([100, 200]) * scales) - [100, 200]
    assert (offsets <= np.maximum(room, 0)).all()
    assert np.mean(offsets[room > 10] / room[room > 10]) == pytest.approx(0.5, abs=0.06)


def test_augmented_boxes_and_masks_cover_the_coloured_pixels():
    image = np.zeros([60, 80, 3], np.uint8)
    mask = np.zeros([60, 80], np.uint8)
    mask[12:40, 20:32] = 1  # an L, so that every flip shows
    mask[30:40, 20:60] = 1
    image[..., 0][mask > 0] = 255
    image[12:40, 20:60, 1] = 255  # its box
    example = make_example(image, [[12, 20, 40, 60]], [5], [mask])
    config = _config(
        True,
        aug_rand_hflip=True,
        aug_rand_vflip=True,
        aug_scale_min=0.6,
        aug_scale_max=2.0,
        mask_crop_size=112,
    )
    corners = set()
    for seed in range(40):
        parsed = _parse(example, config, (72, 96), seed)
        pixels = parsed["image"] * _STDDEV + _MEAN
        pixels[(parsed["image"] == 0).all(-1)] = 0  # padding
        red, green = pixels[..., 0], pixels[..., 1] > 0.5
        rows, columns = np.flatnonzero(green.any(1)), np.flatnonzero(green.any(0))
        box = parsed["boxes"][0]
        if parsed["classes"][0] < 0 or (box[2:] - box[:2] < 1).any():
            assert not green.any()
            continue
        observed = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
        np.testing.assert_allclose(box, observed, atol=0.51)
        pasted = drawing.paste_mask(parsed["masks"][0], box, 72, 96)
        clear = np.abs(red - 0.5) > 0.35  # not on the blurred outline
        np.testing.assert_array_equal(pasted[clear], red[clear] > 0.5)
        inside = red[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] < 0.5
        corners |= {name for name, i in (("top", 0), ("bottom", -1)) if inside[i, 0]}
        corners |= {name for name, i in (("left", 0), ("right", -1)) if inside[0, i]}
    assert corners == {"top", "bottom", "left", "right"}  # every flip came up


def test_sides_never_vanish():
    parsed = _parse(make_example(_noise(1, 300)), _config(), (96, 128))
    np.testing.assert_allclose(parsed["image_info"][2] * [1, 300], [1, 128])


def test_tight_square_gives_all_ones_at_any_scale_and_flip():
    config = _config(
        True, aug_rand_hflip=True, aug_scale_min=0.5, aug_scale_max=1.0, mask_crop_size=112
    )
    for side in (1, 2, 3, 5, 8, 13, 21, 40):
        image = np.zeros([97, 103, 3], np.uint8)
        mask = np.zeros([97, 103], np.uint8)
        mask[31 : 31 + side, 43 : 43 + side] = 1
        example = make_example(image, [[31, 43, 31 + side, 43 + side]], [1], [mask])
        for seed in range(3):
            parsed = _parse(example, config, (150, 131), seed)
            assert parsed["masks"][0].min() == 1
            assert parsed["mask_valid"].tolist() == [True] + [False] * 7


def test_boxes_over_the_edge_are_clipped_and_never_dropped():
    image = _noise(50, 100)
    boxes = [[-0.005, -0.01, 50.005, 100.01], [10, 90, 20, 130], [40, 40, 50.0001, 60]]
    parsed = _parse(make_example(image, boxes, [1, 2, 3]), _config(), (100, 200))
    expected = [[0, 0, 100, 200], [20, 180, 40, 200], [80, 80, 100, 120]]
    np.testing.assert_allclose(parsed["boxes"][:3], expected, atol=1e-3)
    assert (parsed["boxes"][:3, 2:] <= [100, 200]).all() and (parsed["boxes"][:3] >= 0).all()
    assert parsed["classes"].tolist() == [1, 2, 3, -1, -1, -1, -1, -1]
    assert (parsed["boxes"][3:] == -1).all()


def test_instances_that_the_crop_cuts_away_are_dropped():
    image = np.zeros([100, 100, 3], np.uint8)
    boxes = [[0, 0, 10, 10], [90, 90, 100, 100], [0, 0, 100, 100], [30, 30, 30, 40]]
    config = _config(True, aug_scale_min=4.0, aug_scale_max=4.0)
    kept = []
    for seed in range(10):
        parsed = _parse(make_example(image, boxes, [1, 2, 3, 4]), config, (50, 50), seed)
        classes = parsed["classes"][parsed["classes"] > 0].tolist()
        assert 3 in classes and 4 not in classes  # the last has no area
        assert (parsed["boxes"][classes.index(3)] == [0, 0, 50, 50]).all()
        offset = parsed["image_info"][3]
        assert (1 in classes) == bool((offset < 20).all())
        assert (2 in classes) == bool((offset > 130).all())
        kept.append(len(classes))
    assert min(kept) == 1


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("crowds", [None, [1, 1]])
def test_images_without_instances(is_training, crowds):
    boxes = [[1, 1, 9, 9]] * len(crowds or [])
    masks = [np.ones([20, 20], np.uint8)] * len(boxes) if crowds else None
    example = make_example(_noise(20, 20), boxes, [3] * len(boxes), masks, crowds)
    parsed = _parse(example, _config(is_training))
    assert (parsed["classes"] == -1).all() and (parsed["boxes"] == -1).all()
    assert not parsed["mask_valid"].any() and not parsed["masks"].any()
    assert parsed["num_truncated"] == 0
    assert parsed["masks"].shape == (8, 28, 28) and parsed["masks"].dtype == np.uint8


def test_crowds_are_kept_in_training_on_request_but_never_in_evaluation():
    example = make_example(_noise(20, 20), [[1, 1, 9, 9]] * 2, [3, 4], is_crowd=[1, 0])
    kept = _config(True, skip_crowd_during_training=False)
    assert _parse(example, kept)["classes"][:3].tolist() == [3, 4, -1]
    kept.is_training = False
    assert _parse(example, kept)["classes"][:2].tolist() == [4, -1]


def test_instances_without_positive_pixels_have_no_mask():
    some, none = np.zeros([20, 20], np.uint8), np.zeros([20, 20], np.uint8)
    some[2:8, 2:8] = 1
    boxes = [[2, 2, 8, 8], [2, 2, 8, 8], [12, 12, 18, 18]]
    parsed = _parse(make_example(_noise(20, 20), boxes, [1, 1, 1], [some, none, some]), _config())
    # The third has a mask, but not in its box.
    assert parsed["mask_valid"].tolist() == [True] + [False] * 7
    assert parsed["classes"][:3].tolist() == [1, 1, 1]
    assert parsed["masks"][0].all() and not parsed["masks"][1:].any()


@pytest.mark.parametrize("value", [1, 255])
def test_masks_are_binary_however_stored(value):
    mask = np.zeros([20, 20], np.uint8)
    mask[5:15, 5:10] = value
    parsed = _parse(make_example(_noise(20, 20), [[5, 5, 15, 15]], [1], [mask]), _config())
    expected = np.zeros([28, 28])
    expected[:, :14] = 1
    np.testing.assert_array_equal(parsed["masks"][0], expected)


def test_mask_binarize_threshold():
    mask = np.full([20, 20], 100, np.uint8)
    mask[:, :10] = 200
    config = _config()
    config.decoder = DataDecoder(simple_decoder=TfExampleDecoder(mask_binarize_threshold=127.5))
    parsed = _parse(make_example(_noise(20, 20), [[0, 0, 20, 20]], [1], [mask]), config)
    assert parsed["masks"][0, :, :14].all() and not parsed["masks"][0, :, 14:].any()


def test_overflow_keeps_the_first_and_counts_the_rest():
    boxes = [[0, 0, 5, 5]] + [[1, 1, 9, 9]] * 11
    example = make_example(_noise(20, 20), boxes, range(1, 13), is_crowd=[1] + [0] * 11)
    parsed = _parse(example, _config(True))
    assert parsed["classes"].tolist() == list(range(2, 10))
    assert parsed["num_truncated"] == 3


def test_a_plain_record_without_optional_features():
    example = make_example(_noise(20, 20), [[1, 2, 9, 10]], [7], source_id=None)
    parsed = _parse(example, _config())
    assert parsed["classes"][0] == 7 and not parsed["mask_valid"].any()
    without = _parse(example, _config(), include_mask=False)
    assert "masks" not in without and "mask_valid" not in without
    np.testing.assert_array_equal(without["boxes"], parsed["boxes"])


def test_source_ids():
    image = _noise(20, 20)

    def source_id(text, image=image, regenerate=False):
        config = _config()
        config.decoder.simple_decoder.regenerate_source_id = regenerate
        return int(_parse(make_example(image, source_id=text), config)["source_id"])

    assert source_id("139") == 139
    assert source_id("000000581929") == 581929
    assert source_id("900000000000000001") == 900000000000000001
    names = {source_id("a.jpg"), source_id("b.jpg"), source_id(""), source_id(None, image[::-1])}
    assert len(names) == 4 and min(names) >= 0 and max(names) < 2**53
    assert source_id("a.jpg") == source_id("a.jpg")
    assert source_id("139", regenerate=True) == source_id("")


def test_gray_jpeg():
    gray = tf.io.encode_jpeg(np.full([32, 32, 1], 128, np.uint8)).numpy()
    example = make_example(_noise(32, 32), extra={"image/encoded": [gray]})
    image = _parse(example, _config(), (32, 32))["image"]
    np.testing.assert_allclose(image[0, 0], (128 / 255 - _MEAN) / _STDDEV, atol=1e-5)


def test_malformed_record_names_the_feature():
    example = make_example(
        _noise(8, 8), [[0, 0, 4, 4]] * 2, [1, 2], extra={"image/object/is_crowd": [0]}
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="image/object/is_crowd"):
        _parse(example, _config())


def test_same_seed_same_example():
    image = _noise(40, 60)
    example = make_example(image, [[5, 5, 30, 30]], [1])
    config = _config(True, aug_rand_hflip=True, aug_scale_min=0.5, aug_scale_max=2.0)
    first, again, other = (_parse(example, config, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first["image"], again["image"])
    np.testing.assert_array_equal(first["boxes"], again["boxes"])
    assert not np.array_equal(first["image_info"], other["image_info"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_padding_example_has_the_signature_of_a_real_one(dtype):
    config = _config()
    config.dtype = dtype
    example = make_example(_noise(8, 8), [[0, 0, 4, 4]], [1])

    @tf.function
    def real():
        return parser.parse_example(tf.constant(example), None, config, (64, 32), True)

    padding = parser.padding_example(config, (64, 32), True)
    for key, value in real().items():
        assert padding[key].dtype == value.dtype and padding[key].shape == value.shape
    assert set(padding) == set(real())
    assert padding["source_id"] == -1 and (padding["classes"].numpy() == -1).all()


@contextlib.contextmanager
def _memory_growth() -> Iterator[list[int]]:
    """Samples how much larger, in bytes, the process is than at the start."""
    statm = pathlib.Path("/proc/self/statm")

    def resident() -> int:
        return int(statm.read_text().split()[1]) * resource.getpagesize()

    start, samples, done = resident(), [], threading.Event()

    def sample() -> None:
        while not done.wait(0.001):
            samples.append(resident() - start)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def test_memory_of_a_hundred_large_masks():
    side, count = 1024, 100
    mask = np.zeros([side, side], np.uint8)
    mask[200:800, 200:800] = 1
    box = [200, 200, 800, 800]
    stored = png(mask)
    example = make_example(
        np.zeros([side, side, 3], np.uint8),
        *([box] * count, [1] * count),
        extra={"image/object/mask": [stored] * count},
    )
    config = _config(max_num_instances=100, mask_crop_size=112)

    @tf.function
    def parse(serialized):
        return parser.parse_example(serialized, None, config, (side, side), True)

    parse(make_example(np.zeros([side, side, 3], np.uint8)))  # what does not depend on instances
    with _memory_growth() as samples:
        parsed = parse(example)
    assert parsed["masks"].numpy().all()
    assert len(samples) > 20
    assert max(samples) < 60e6  # the masks together are 105 MB, as float32 420 MB
