"""Serialized examples out of TFRecord files: sharded, shuffled, repeated."""

import struct
from collections.abc import Sequence

import tensorflow as tf

from official_maskrcnn.configs.task import DataConfig

PADDING = b""  # stands for an image that only fills the last evaluation batch

_DEFAULT_CYCLE_LENGTH = 16  # fixed, so that every input pipeline reads in the same order
_RECORD_HEADER = struct.Struct("<QI")  # length and its checksum, before the data and its checksum


def count_examples(files: Sequence[str], config: DataConfig) -> int:
    """Number of examples that one pass over TFRecord files gives."""
    if config.skip_empty_images:
        kept = _read_in_order(files, config)
        return int(kept.reduce(0, lambda count, _: count + 1))
    total = sum(_count_records(path) for path in files)
    return total if config.max_examples is None else min(total, config.max_examples)


def _count_records(path: str) -> int:
    """By the headers alone."""
    total = 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while len(header := file.read(_RECORD_HEADER.size)) == _RECORD_HEADER.size:
            length, _ = _RECORD_HEADER.unpack(header)
            file.seek(file.tell() + length + 4)
            total += 1
    return total


def read_training(
    files: Sequence[str],
    config: DataConfig,
    seed: int | None = None,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Endless serialized examples, each once an epoch, in another order every epoch.

    Of several input pipelines each reads its own share: files where there are enough of them, else
    every n-th example.
    """
    num_pipelines, pipeline = _pipelines(context) if config.sharding else (1, 0)
    if len(files) >= num_pipelines and config.max_examples is None:
        own = files[pipeline::num_pipelines]
        names = tf.data.Dataset.from_tensor_slices(own)
        names = names.shuffle(len(own), seed, reshuffle_each_iteration=True)
        dataset = _select(_read_files(names, len(own), config), config)
    else:
        dataset = _read_in_order(files, config).shard(num_pipelines, pipeline)
    if config.cache:
        dataset = dataset.cache()
    # Shuffled before it is repeated: an epoch ends before the next begins. (tf.data fuses the two,
    # so the buffer does not run empty in between.)
    return dataset.shuffle(config.shuffle_buffer_size, seed).repeat()


def read_evaluation(
    files: Sequence[str], config: DataConfig, context: tf.distribute.InputContext | None = None
) -> tf.data.Dataset:
    """Each serialized example once over all input pipelines, filled up with PADDING.

    Every pipeline gets the same number of examples, a multiple of its share of the global batch,
    so that replicas that step together end together. For this the examples of each global batch
    are divided, and not the files.
    """
    num_pipelines, pipeline = _pipelines(context)
    global_batch = config.global_batch_size
    share = global_batch // num_pipelines
    dataset = _read_in_order(files, config)
    if config.cache:
        dataset = dataset.cache()
    padding = tf.data.Dataset.from_tensors(PADDING).repeat(global_batch - 1)
    dataset = dataset.concatenate(padding).batch(global_batch, drop_remainder=True)
    return dataset.map(lambda batch: batch[pipeline * share : (pipeline + 1) * share]).unbatch()


def _pipelines(context: tf.distribute.InputContext | None) -> tuple[int, int]:
    if context is None:
        return 1, 0
    return context.num_input_pipelines, context.input_pipeline_id


def _read_files(
    names: tf.data.Dataset, count: int, config: DataConfig, deterministic: bool | None = None
) -> tf.data.Dataset:
    return names.interleave(
        tf.data.TFRecordDataset,
        cycle_length=min(config.cycle_length or _DEFAULT_CYCLE_LENGTH, count),
        block_length=config.block_length,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=deterministic,
    )


def _read_in_order(files: Sequence[str], config: DataConfig) -> tf.data.Dataset:
    names = tf.data.Dataset.from_tensor_slices(list(files))
    return _select(_read_files(names, len(files), config, deterministic=True), config)


def _select(dataset: tf.data.Dataset, config: DataConfig) -> tf.data.Dataset:
    if config.skip_empty_images:
        dataset = dataset.filter(_has_instances)
    return dataset if config.max_examples is None else dataset.take(config.max_examples)


def _has_instances(serialized: tf.Tensor) -> tf.Tensor:
    """Whether an example has an instance that is not a crowd, without decoding its image."""
    many = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
    features = {"image/object/class/label": many, "image/object/is_crowd": many}
    example = tf.io.parse_single_example(serialized, features)
    num_crowds = tf.math.count_nonzero(example["image/object/is_crowd"], dtype=tf.int32)
    return tf.size(example["image/object/class/label"]) > num_crowds
