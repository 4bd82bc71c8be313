"""Reading: every example once an epoch, over any number of input pipelines."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from official_maskrcnn.configs.task import DataConfig
from official_maskrcnn.data import reader
from tests.data.example_records import make_example, write_records

_IMAGE = np.zeros([4, 4, 3], np.uint8)


def _context(num_pipelines: int, pipeline: int) -> tf.distribute.InputContext | None:
    return tf.distribute.InputContext(num_pipelines, pipeline, num_pipelines)


def _take(dataset: tf.data.Dataset, count: int) -> list[bytes]:
    return list(dataset.take(count).as_numpy_iterator())


@pytest.fixture
def files(tmp_path):
    """Four files with 1, 2, 3 and 4 of the examples 0 ... 9."""
    paths = []
    for i, numbers in enumerate(([0], [1, 2], [3, 4, 5], [6, 7, 8, 9])):
        (tmp_path / str(i)).mkdir()
        paths += write_records(tmp_path / str(i), [str(n).encode() for n in numbers])
    return paths


_ALL = sorted(str(n).encode() for n in range(10))


def test_count_examples(files, tmp_path):
    assert reader.count_examples(files, DataConfig()) == 10
    assert reader.count_examples(files, DataConfig(max_examples=4)) == 4
    assert reader.count_examples(files, DataConfig(max_examples=40)) == 10
    assert reader.count_examples(write_records(tmp_path, []), DataConfig()) == 0
    assert reader.count_examples([], DataConfig()) == 0


@pytest.mark.parametrize("num_pipelines", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("global_batch_size", [5, 60])
def test_evaluation_reads_every_example_once(files, num_pipelines, global_batch_size):
    if global_batch_size % num_pipelines:
        global_batch_size *= num_pipelines
    config = DataConfig(global_batch_size=global_batch_size)
    shares = [
        list(reader.read_evaluation(files, config, _context(num_pipelines, p)).as_numpy_iterator())
        for p in range(num_pipelines)
    ]
    assert len({len(share) for share in shares}) == 1  # pipelines end together
    assert len(shares[0]) % (global_batch_size // num_pipelines) == 0
    assert sum(len(share) for share in shares) < 10 + global_batch_size
    read = [example for share in shares for example in share if example != reader.PADDING]
    assert sorted(read) == _ALL


@pytest.mark.parametrize("num_pipelines", [1, 2, 3, 4, 6])  # by file up to 4, then by example
@pytest.mark.parametrize("cache", [False, True])
def test_no_example_twice_in_an_epoch_of_training(files, num_pipelines, cache):
    config = DataConfig(is_training=True, shuffle_buffer_size=4, cache=cache)
    epoch = collections.Counter()
    for pipeline in range(num_pipelines):
        dataset = reader.read_training(files, config, 3, _context(num_pipelines, pipeline))
        share = _take(dataset, 10)  # goes round, as it holds fewer unless alone
        size = len(set(share))
        for i in range(0, 10 - size + 1, size):
            assert len(set(share[i : i + size])) == size
        epoch.update(share[:size])
    assert sorted(epoch) == _ALL and set(epoch.values()) == {1}


def test_training_is_shuffled_anew_each_epoch_and_the_same_with_the_same_seed(files):
    config = DataConfig(is_training=True, shuffle_buffer_size=100)
    first, again, other = (_take(reader.read_training(files, config, s), 30) for s in (1, 1, 2))
    assert first == again
    assert first != other
    epochs = [first[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == _ALL for epoch in epochs)
    assert epochs[0] != epochs[1] and epochs[1] != epochs[2]


def test_without_sharding_every_pipeline_reads_everything(files):
    config = DataConfig(is_training=True, shuffle_buffer_size=100, sharding=False)
    assert sorted(_take(reader.read_training(files, config, 0, _context(2, 1)), 10)) == _ALL


@pytest.mark.parametrize("is_training", [False, True])
def test_empty_images_are_kept_or_dropped(tmp_path, is_training):
    box = [0, 0, 2, 2]
    examples = [
        make_example(_IMAGE, [box], [1], source_id="1"),
        make_example(_IMAGE, source_id="2"),  # no instance
        make_example(_IMAGE, [box], [1], is_crowd=[1], source_id="3"),  # only a crowd
        make_example(_IMAGE, [box, box], [1, 2], is_crowd=[1, 0], source_id="4"),
    ]
    files = write_records(tmp_path, examples)
    for skip, expected in ((True, [examples[0], examples[3]]), (False, examples)):
        config = DataConfig(global_batch_size=1, skip_empty_images=skip)
        if is_training:
            read = _take(reader.read_training(files, config), len(expected))
        else:
            read = list(reader.read_evaluation(files, config).as_numpy_iterator())
        assert sorted(read) == sorted(expected)


@pytest.mark.parametrize("num_pipelines", [1, 2, 3])
def test_max_examples_are_the_same_few_for_training_and_evaluation(files, num_pipelines):
    config = DataConfig(global_batch_size=6, max_examples=3, is_training=True)
    train, evaluation = collections.Counter(), collections.Counter()
    for pipeline in range(num_pipelines):
        context = _context(num_pipelines, pipeline)
        train.update(_take(reader.read_training(files, config, 1, context), 30))
        evaluation.update(reader.read_evaluation(files, config, context).as_numpy_iterator())
    del evaluation[reader.PADDING]
    assert set(train) == set(evaluation)
    assert len(evaluation) == 3 and set(evaluation.values()) == {1}
