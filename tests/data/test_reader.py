"""Reading: every example once an epoch, at any step, over any number of input pipelines."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf

from official_maskrcnn.configs.task import DataConfig
from official_maskrcnn.data import reader
from official_maskrcnn.errors import UserError
from tests.data.example_records import make_example, write_records

_IMAGE = np.zeros([4, 4, 3], np.uint8)


def _context(num_pipelines: int, pipeline: int) -> tf.distribute.InputContext | None:
    return tf.distribute.InputContext(num_pipelines, pipeline, num_pipelines)


def _examples(order: tf.data.Dataset, count: int = -1) -> list[int]:
    return [int(number) for _, number in order.take(count)]


def _training(num_examples: int, seed: int = 0, first: int = 0, **fields) -> tf.data.Dataset:
    return reader.training_order(num_examples, DataConfig(**fields), seed, first)


@pytest.fixture
def files(tmp_path):
    """Five files with 1, 2, 0, 3 and 4 of the examples 0 ... 9."""
    paths = []
    for i, numbers in enumerate(([0], [1, 2], [], [3, 4, 5], [6, 7, 8, 9])):
        (tmp_path / str(i)).mkdir()
        paths += write_records(tmp_path / str(i), [str(n).encode() * (n + 1) for n in numbers])
    return paths


def test_an_index_finds_every_example(files, tmp_path):
    index = reader.build_index(files, DataConfig())
    assert len(index) == 10
    for cache in (False, True):
        read = reader.example_reader(index, cache)
        in_graph = tf.function(read)
        for _, number in itertools.product(range(2), (7, 0, 9, 3)):
            expected = str(number).encode() * (number + 1)
            assert read(tf.constant(number, tf.int64)).numpy() == expected
            assert in_graph(tf.constant(number, tf.int64)).numpy() == expected
    assert index.name(0).numpy().decode() == f"{files[0]}, record 1 at byte 0"
    assert index.name(8).numpy().decode().startswith(f"{files[4]}, record 3 at byte ")
    assert len(reader.build_index(files, DataConfig(max_examples=4))) == 4
    assert len(reader.build_index(files, DataConfig(max_examples=40))) == 10
    assert len(reader.build_index(write_records(tmp_path, []), DataConfig())) == 0


def test_a_cached_example_outlives_its_file(files):
    index = reader.build_index(files, DataConfig())
    read = reader.example_reader(index, cache=True)
    read(tf.constant(1, tf.int64))
    (path,) = tf.io.gfile.glob(files[1])
    tf.io.gfile.remove(path)
    assert read(tf.constant(1, tf.int64)).numpy() == b"11"
    with pytest.raises(tf.errors.NotFoundError, match="part-"):
        read(tf.constant(2, tf.int64))


@pytest.mark.parametrize("damage", ["length", "checksum", "cut", "junk"])
def test_a_file_whose_records_cannot_be_told_apart_is_named(files, tmp_path, damage):
    path = files[3]
    data = bytearray(tf.io.gfile.GFile(path, "rb").read())
    second = len(data) - 2 * 16 - 5 - 6  # records of 4, 5 and 6 bytes
    if damage == "length":
        data[second + 1] ^= 1
    elif damage == "checksum":
        data[second + 8] ^= 1
    elif damage == "cut":
        del data[-3:]
    else:
        data[:] = b"not records at all"
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(bytes(data))
    byte = {"cut": len(data) + 3 - 16 - 6, "junk": 0}.get(damage, second)
    with pytest.raises(UserError, match=rf"part-.* is damaged.* at byte {byte};"):
        reader.build_index(files, DataConfig())


def test_a_missing_file_is_named(files):
    with pytest.raises(UserError, match="cannot read the record file /nowhere/x"):
        reader.build_index([*files, "/nowhere/x"], DataConfig())


def test_empty_images_are_kept_or_left_out(tmp_path):
    box = [0, 0, 2, 2]
    examples = [
        make_example(_IMAGE, [box], [1], source_id="1"),
        make_example(_IMAGE, source_id="2"),  # no instance
        make_example(_IMAGE, [box], [1], is_crowd=[1], source_id="3"),  # only a crowd
        make_example(_IMAGE, [box, box], [1, 2], is_crowd=[1, 0], source_id="4"),
    ]
    files = write_records(tmp_path, examples)
    for fields, expected in (
        ({"skip_empty_images": True}, [examples[0], examples[3]]),
        ({"skip_empty_images": True, "max_examples": 1}, examples[:1]),
        ({}, examples),
    ):
        index = reader.build_index(files, DataConfig(**fields))
        assert [index.read(number).numpy() for number in range(len(index))] == expected


def test_an_epoch_is_a_permutation_of_its_own():
    orders = [_examples(_training(10, seed), 30) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    epochs = [orders[0][i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert _examples(_training(3, shuffle_buffer_size=1), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_every_example_is_as_often_at_every_place():
    counts = np.zeros([5, 5])
    order = np.reshape(_examples(_training(5), 5 * 2000), [2000, 5])
    for place in range(5):
        counts[place] = np.bincount(order[:, place], minlength=5)
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400 * 0.8)


@pytest.mark.parametrize("first", [0, 1, 9, 10, 11, 25])
def test_a_training_can_begin_anywhere(first):
    whole = list(_training(10, 3).take(40).as_numpy_iterator())
    assert [place for place, _ in whole] == list(range(40))
    assert list(_training(10, 3, first).take(40 - first).as_numpy_iterator()) == whole[first:]


@pytest.mark.parametrize("num_pipelines", [1, 2, 3, 6])
def test_pipelines_share_out_each_global_batch(num_pipelines):
    order = _training(10, 5)
    shares = [
        _examples(reader.own_share(order, 6, _context(num_pipelines, p)), 60 // num_pipelines)
        for p in range(num_pipelines)
    ]
    batches = np.concatenate([np.reshape(share, [10, -1]) for share in shares], axis=1)
    np.testing.assert_array_equal(batches, np.reshape(_examples(order, 60), [10, 6]))


@pytest.mark.parametrize("num_pipelines", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("batch_size_per_pipeline", [1, 12])
def test_evaluation_has_every_example_once(num_pipelines, batch_size_per_pipeline):
    batch_size = num_pipelines * batch_size_per_pipeline
    order = reader.evaluation_order(10, batch_size)
    shares = [
        _examples(reader.own_share(order, batch_size, _context(num_pipelines, p)))
        for p in range(num_pipelines)
    ]
    assert len({len(share) for share in shares}) == 1  # pipelines end together
    assert len(shares[0]) % batch_size_per_pipeline == 0
    counts = collections.Counter(itertools.chain(*shares))
    assert counts.pop(-1, 0) < batch_size
    assert counts == {number: 1 for number in range(10)}
