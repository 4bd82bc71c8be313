"""Batches: shapes, exactly-once evaluation, sources, seeds."""

import json
import logging
import pathlib
import re

import cv2
import numpy as np
import pytest
import tensorflow as tf

from official_maskrcnn.configs.task import DataConfig, Parser
from official_maskrcnn.data import pipeline
from official_maskrcnn.errors import DATA_FAULT, UserError
from tests.data.example_records import make_example, write_records

_SIZE = (32, 48)


def _config(**fields) -> DataConfig:
    defaults = {
        "global_batch_size": 4,
        "parser": Parser(max_num_instances=3, mask_crop_size=14, aug_rand_hflip=True),
    }
    return DataConfig(**(defaults | fields))


def _examples(count: int) -> list[bytes]:
    """Images 1 ... count of which the even ones have an instance."""
    rng = np.random.default_rng(0)
    examples = []
    for i in range(1, count + 1):
        boxes = [[2, 3, 12, 13]] * (i % 2 == 0)
        image = rng.integers(0, 256, [20, 30, 3], np.uint8)
        examples.append(make_example(image, boxes, [1] * len(boxes), source_id=str(i)))
    return examples


def _contexts(num_pipelines: int, replicas: int) -> list[tf.distribute.InputContext]:
    return [tf.distribute.InputContext(num_pipelines, i, replicas) for i in range(num_pipelines)]


@pytest.fixture
def pattern(tmp_path):
    """Ten examples in three files."""
    write_records(tmp_path, _examples(10), shards=3)
    return str(tmp_path / "part-*")


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("include_mask", [False, True])
def test_all_shapes_are_static(pattern, is_training, include_mask):
    config = _config(input_path=pattern, is_training=is_training)
    spec = pipeline.build_dataset(config, _SIZE, include_mask).element_spec
    expected = {
        "image": ((4, 32, 48, 3), tf.bfloat16),
        "image_info": ((4, 4, 2), tf.float32),
        "source_id": ((4,), tf.int64),
        "boxes": ((4, 3, 4), tf.float32),
        "classes": ((4, 3), tf.int32),
        "num_truncated": ((4,), tf.int32),
    }
    if include_mask:
        expected["masks"] = ((4, 3, 14, 14), tf.uint8)
        expected["mask_valid"] = ((4, 3), tf.bool)
    assert {key: (tuple(s.shape), s.dtype) for key, s in spec.items()} == expected


@pytest.mark.parametrize("is_training", [False, True])
def test_nothing_holds_up_the_end_of_an_iteration(pattern, is_training):
    """As the autotuner's thread does, by up to a minute, once it has run for a while."""
    config = _config(input_path=pattern, is_training=is_training)
    assert pipeline.build_dataset(config, _SIZE, False).options().autotune.enabled is False


@pytest.mark.parametrize(("num_pipelines", "replicas"), [(1, 1), (1, 2), (2, 2), (2, 6), (3, 3)])
def test_evaluation_counts_every_image_once(pattern, num_pipelines, replicas):
    config = _config(input_path=pattern, global_batch_size=6, drop_remainder=True)
    ids = []
    for context in _contexts(num_pipelines, replicas):
        batches = list(pipeline.build_dataset(config, _SIZE, True, context))
        assert len(batches) == 2 * replicas // num_pipelines  # two steps
        for batch in batches:
            assert batch["image"].shape == (6 // replicas, *_SIZE, 3)
            padding = batch["source_id"].numpy() == -1
            assert not batch["image"].numpy()[padding].any()
            assert (batch["classes"].numpy()[padding] == -1).all()
            assert np.isfinite(batch["image_info"]).all()
            ids += batch["source_id"].numpy().tolist()
    assert sorted(ids) == [-1, -1, *range(1, 11)]


def test_training_is_endless_in_full_batches_and_reproducible(pattern):
    parser = Parser(
        **{"max_num_instances": 3, "mask_crop_size": 14},
        **{"aug_rand_hflip": True, "aug_scale_min": 0.5, "aug_scale_max": 2.0},
    )
    config = _config(input_path=pattern, is_training=True, dtype="float32", parser=parser)

    def batches(seed, context=None):
        config.seed = seed
        return list(pipeline.build_dataset(config, _SIZE, True, context).take(6))

    first, again, other, unseeded = batches(1), batches(1), batches(2), batches(None)
    _assert_equal_batches(first, again)
    ids = [
        np.concatenate([batch["source_id"] for batch in run]) for run in (first, other, unseeded)
    ]
    assert [len(run) for run in ids] == [24] * 3
    assert sorted(ids[0][:10]) == list(range(1, 11))
    assert len({tuple(run) for run in ids}) == 3
    # The same image in another epoch is augmented otherwise.
    scales = np.concatenate([batch["image_info"][:, 2, 0] for batch in first])
    assert len(set(scales[ids[0] == 4])) > 1


def _assert_equal_batches(batches, expected):
    for batch, same in zip(batches, expected, strict=True):
        for key, value in batch.items():
            np.testing.assert_array_equal(value, same[key])


@pytest.fixture
def augmented(pattern):
    parser = Parser(max_num_instances=3, aug_rand_hflip=True, aug_scale_min=0.5, aug_scale_max=2.0)
    return _config(input_path=pattern, is_training=True, dtype="float32", parser=parser)


def test_a_training_goes_on_at_any_step(augmented):
    whole = list(pipeline.build_dataset(augmented, _SIZE, False, seed=4).take(7))
    for step in (1, 5):
        rest = pipeline.build_dataset(augmented, _SIZE, False, seed=4, first_step=step)
        _assert_equal_batches(rest.take(7 - step), whole[step:])


def test_pipelines_share_out_the_same_global_batch(augmented):
    whole = pipeline.build_dataset(augmented, _SIZE, False, seed=4).take(6)
    shares = [
        pipeline.build_dataset(augmented, _SIZE, False, context, seed=4).take(6)
        for context in _contexts(2, 2)
    ]
    joined = [
        {key: np.concatenate([one[key], other[key]]) for key in one}
        for one, other in zip(*shares, strict=True)
    ]
    _assert_equal_batches(joined, whole)


def _damaged(folder, is_training, **fields):
    """Ten examples in two files, of which 3 has a wrong byte and 6 half an image."""
    examples = _examples(10)
    image = tf.train.Example.FromString(examples[5]).features.feature["image/encoded"]
    half = image.bytes_list.value[0][:400]
    examples[5] = make_example(np.zeros([20, 30, 3], np.uint8), extra={"image/encoded": [half]})
    paths = write_records(folder, examples, shards=2)
    content = bytearray(pathlib.Path(paths[0]).read_bytes())
    content[content.index(examples[2]) + 100] ^= 8
    pathlib.Path(paths[0]).write_bytes(bytes(content))
    return _config(input_path=",".join(paths), is_training=is_training, **fields)


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("limit", [0, 1])
def test_too_many_damaged_examples_end_the_reading(tmp_path, is_training, limit):
    config = _damaged(tmp_path, is_training, max_faulty_examples=limit)
    with pytest.raises(tf.errors.OpError) as caught:
        list(pipeline.build_dataset(config, _SIZE, False).take(6))
    message = caught.value.message.partition(DATA_FAULT)[2].splitlines()[0]
    assert message.count(".tfrecord, record ") == 1
    assert int(re.search(r"(\d+) damaged example.s. so far", message)[1]) > limit
    part = "train_data" if is_training else "validation_data"
    assert f"task.{part}.max_faulty_examples ({limit}) are allowed" in message


def test_damaged_examples_are_named_and_left_out(tmp_path, capfd):
    config = _damaged(tmp_path, True, max_faulty_examples=2, shuffle_buffer_size=1)
    dataset = pipeline.build_dataset(config, _SIZE, False).take(5)
    ids = [np.concatenate([batch["source_id"] for batch in dataset]) for _ in range(2)]
    # In the order of the files; the next whole example stands in.
    assert ids[0].tolist() == [1, 5, 5, 7, 9, 2, 4, 8, 8, 10] * 2
    assert ids[1].tolist() == ids[0].tolist()
    reports = [line for line in capfd.readouterr().err.splitlines() if "left out" in line]
    for place in (
        "part-00000-of-00002.tfrecord, record 2",
        "part-00001-of-00002.tfrecord, record 3",
    ):
        assert sum(f"{tmp_path}/{place}" in report for report in reports) == 1


def test_a_damaged_example_is_found_also_where_empty_images_are_left_out(tmp_path, capfd):
    fields = {"skip_empty_images": True, "shuffle_buffer_size": 1}
    config = _damaged(tmp_path, True, max_faulty_examples=1, **fields)
    dataset = pipeline.build_dataset(config, _SIZE, False).take(5)
    ids = np.concatenate([batch["source_id"] for batch in dataset])
    assert ids.tolist() == [2, 2, 4, 8, 10] * 4  # of the even ones 6 is empty; 2 stands in for 3
    place = "part-00000-of-00002.tfrecord, record 2 at byte "
    assert place in capfd.readouterr().err
    config.max_faulty_examples = 0
    with pytest.raises(tf.errors.OpError, match=rf"{DATA_FAULT}.*{place}.*\(0\) are allowed"):
        next(iter(pipeline.build_dataset(config, _SIZE, False)))


def test_an_evaluation_pads_for_damaged_examples(tmp_path):
    config = _damaged(tmp_path, False, max_faulty_examples=2)
    ids = np.concatenate([b["source_id"] for b in pipeline.build_dataset(config, _SIZE, True)])
    assert ids.tolist() == [1, -1, 5, 7, 9, 2, 4, -1, 8, 10, -1, -1]


def test_a_file_that_vanishes_is_named(tmp_path, augmented):
    batches = iter(pipeline.build_dataset(augmented, _SIZE, False))
    next(batches)
    for path in tf.io.gfile.glob(augmented.input_path):
        tf.io.gfile.remove(path)
    with pytest.raises(tf.errors.OpError, match=f"{DATA_FAULT}.*part-.*record .*No such file"):
        for _ in range(100):
            next(batches)


def test_several_patterns_in_one_input_path(tmp_path):
    paths = []
    for name, examples in (("a", _examples(4)[:2]), ("b", _examples(4)[2:])):
        (tmp_path / name).mkdir()
        write_records(tmp_path / name, examples, shards=2)
        paths.append(str(tmp_path / name / "part-*"))
    for input_path in (",".join(paths), paths):
        batches = list(pipeline.build_dataset(_config(input_path=input_path), _SIZE, False))
        assert sorted(batches[0]["source_id"].numpy()) == [1, 2, 3, 4] and len(batches) == 1


def test_a_pattern_without_files_is_named(pattern):
    config = _config(input_path=f"{pattern},/nowhere/x*")
    with pytest.raises(UserError, match=r"/nowhere/x\*"):
        pipeline.build_dataset(config, _SIZE, False)


def test_files_without_examples(tmp_path):
    config = _config(input_path=write_records(tmp_path, [])[0])
    with pytest.raises(UserError, match="no examples"):
        pipeline.build_dataset(config, _SIZE, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "neither"),
        ({"input_path": "x", "image_dir": "y", "annotation_file": "z"}, "both"),
        ({"image_dir": "y"}, "annotation_file is not set"),
        ({"annotation_file": "z"}, "image_dir is not set"),
    ],
)
def test_exactly_one_source(fields, message):
    with pytest.raises(UserError, match=message):
        pipeline.build_dataset(_config(**fields), _SIZE, False)


@pytest.mark.parametrize(("batch_size", "replicas"), [(0, 1), (-4, 1), (4, 3)])
def test_batch_size_must_suit_the_replicas(pattern, batch_size, replicas):
    config = _config(input_path=pattern, global_batch_size=batch_size)
    with pytest.raises(UserError, match=f"global_batch_size .{batch_size}"):
        pipeline.build_dataset(config, _SIZE, False, _contexts(1, replicas)[0])


@pytest.mark.parametrize("skip", [False, True])
def test_images_without_instances(pattern, skip, caplog):
    config = _config(input_path=pattern, skip_empty_images=skip)
    with caplog.at_level(logging.INFO, logger="absl"):
        dataset = pipeline.build_dataset(config, _SIZE, False)
    assert ("left out" if skip else "kept") in caplog.text
    ids = np.concatenate([batch["source_id"] for batch in dataset])
    expected = range(2, 11, 2) if skip else range(1, 11)
    assert sorted(ids[ids > 0]) == list(expected)


def test_from_a_folder_of_images(tmp_path):
    image = np.full([20, 30, 3], 255, np.uint8)
    for i in (3, 5):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), image)
    annotation = {
        **{"id": 1, "image_id": 5, "category_id": 7, "iscrowd": 0, "area": 50},
        **{"bbox": [2, 4, 10, 5], "segmentation": [[2, 4, 12, 4, 12, 9, 2, 9]]},
    }
    coco = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 30} for i in (3, 5)],
        "annotations": [annotation],
        "categories": [{"id": 7, "name": "seven"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    config = _config(
        image_dir=str(tmp_path),
        annotation_file=str(tmp_path / "coco.json"),
        cache_dir=str(tmp_path / "cache"),
        global_batch_size=2,
        dtype="float32",
    )
    (batch,) = pipeline.build_dataset(config, (20, 30), True)
    order = np.argsort(batch["source_id"])
    assert batch["source_id"].numpy()[order].tolist() == [3, 5]
    second = order[1]
    assert batch["classes"].numpy()[second].tolist() == [7, -1, -1]
    np.testing.assert_allclose(batch["boxes"][second, 0], [4, 2, 9, 12], atol=1e-3)
    assert batch["masks"].numpy()[second, 0].all()


def test_real_photographs(shared_data, tmp_path):
    folder = shared_data / "coco_sample"
    config = _config(
        image_dir=str(folder / "val2017"),
        annotation_file=str(folder / "annotations" / "instances_val2017.json"),
        cache_dir=str(tmp_path),
        parser=Parser(),
    )
    coco = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    ids, instances, with_mask = [], 0, 0
    for batch in pipeline.build_dataset(config, (128, 128), True):
        ids += batch["source_id"].numpy().tolist()
        real = batch["classes"].numpy() > 0
        instances += real.sum()
        with_mask += batch["mask_valid"].numpy().sum()
        sides = batch["boxes"].numpy()[real]
        assert (sides[:, 2:] > sides[:, :2]).all()
    assert sorted(i for i in ids if i > 0) == sorted(image["id"] for image in coco["images"])
    assert instances == with_mask == sum(not a["iscrowd"] for a in coco["annotations"])
