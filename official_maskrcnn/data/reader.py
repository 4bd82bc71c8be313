"""Examples of TFRecord files, each read singly by its place in the files.

So the order of a training is a matter of numbers: any step of it can be the first that is read,
every epoch is shuffled as a whole, and input pipelines share out the examples of each batch.
"""

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from official_maskrcnn.configs.task import DataConfig
from official_maskrcnn.data import parallel, tfrecord
from official_maskrcnn.errors import UserError

_THREADS = 16  # files whose headers are read at a time: remote ones take their time to answer


class ExampleIndex:
    """Where n examples are, for graphs and outside of them."""

    def __init__(
        self,
        paths: Sequence[str],
        files: np.ndarray,
        places: np.ndarray,
        offsets: np.ndarray,
        sizes: np.ndarray,
    ):
        """Knows the examples, sorted by file and place.

        Args:
          paths: of the files.
          files: int64 [n], the file of each.
          places: int64 [n], its place there, from 1 on.
          offsets: int64 [n], its first byte.
          sizes: int64 [n], bytes of the record, its frame included.
        """
        self.paths, self.files, self.places = paths, files, places
        self.offsets, self.sizes = offsets, sizes
        with tf.device("cpu:0"):
            self._paths = tf.constant(paths, tf.string)
            self._tables = [tf.constant(each, tf.int64) for each in (files, places, offsets, sizes)]

    def __len__(self) -> int:
        return len(self.files)

    def select(self, keep: np.ndarray | slice) -> "ExampleIndex":
        """Some of the examples."""
        arrays = (self.files, self.places, self.offsets, self.sizes)
        return ExampleIndex(self.paths, *(array[keep] for array in arrays))

    def path(self, number: tf.Tensor | int) -> tf.Tensor:
        """The file of an example."""
        return self._paths[self._tables[0][number]]

    def name(self, number: tf.Tensor | int) -> tf.Tensor:
        """Of an example: its file and place there, for messages."""
        _, places, offsets, _ = (tf.as_string(table[number]) for table in self._tables)
        return tf.strings.join([self.path(number), ", record ", places, " at byte ", offsets])

    def read(self, number: tf.Tensor | int) -> tf.Tensor:
        """The serialized example.

        Raises:
          tf.errors.OpError: it is damaged, or its file is gone.
        """
        _, _, offsets, sizes = self._tables
        spec = {"output_types": [tf.string], "output_shapes": [[]]}
        records = tf.raw_ops.TFRecordDatasetV2(  # tf.data.TFRecordDataset knows no offsets
            filenames=self.path(number)[None],
            compression_type="",
            buffer_size=sizes[number],
            byte_offsets=offsets[number][None],
        )
        record = tf.raw_ops.TakeDataset(input_dataset=records, count=1, **spec)
        return tf.raw_ops.DatasetToSingleElement(dataset=record, **spec)[0]


class DamagedFile(UserError):
    """A record file with a wrong length or checksum."""


def build_index(paths: Sequence[str], config: DataConfig | None = None) -> ExampleIndex:
    """The examples of TFRecord files that a configuration selects, file by file.

    Args:
      paths: of the files, local or remote.
      config: `skip_empty_images`, for which every example is read once (one that cannot be read
        stays, for whoever reads it next to tell), and `max_examples`; None for all.

    Raises:
      DamagedFile: where one record ends and the next begins cannot be told.
      UserError: a file cannot be read.
    """
    config = config or DataConfig()
    limits = list(_read_limits(paths))
    index = ExampleIndex(
        paths,
        files=np.repeat(np.arange(len(paths)), [len(limit) - 1 for limit in limits]),
        places=np.concatenate([[], *(np.arange(1, len(limit)) for limit in limits)]).astype(
            np.int64
        ),
        offsets=np.concatenate([[], *(limit[:-1] for limit in limits)]).astype(np.int64),
        sizes=np.concatenate([[], *(np.diff(limit) for limit in limits)]).astype(np.int64),
    )
    if config.skip_empty_images:
        keep = np.ones(len(index), bool)
        numbers = map_in_parallel(
            tf.data.Dataset.range(len(index)),
            lambda number: (number, _has_instances(index.read(number))),
        )
        found = numbers.ignore_errors().as_numpy_iterator()
        for number, has in parallel.track(found, len(index), "Looking for empty images"):
            keep[number] = has
        index = index.select(keep)
    return index.select(slice(config.max_examples))


def _read_limits(paths: Sequence[str]) -> Iterator[np.ndarray]:
    """Of each file where its records begin, and where the last one ends."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        limits = pool.map(_record_limits, paths)
        is_long = len(paths) > _THREADS
        yield from parallel.track(limits, len(paths), "Indexing records", is_long, unit="files")


def _record_limits(path: str) -> np.ndarray:
    try:
        length = tf.io.gfile.stat(path).length
        limits = [0]
        with tf.io.gfile.GFile(path, "rb") as file:
            while limits[-1] < length:
                file.seek(limits[-1])
                size = tfrecord.record_size(file.read(tfrecord.HEADER_SIZE))
                if size is None or limits[-1] + size > length:
                    raise DamagedFile(
                        f"{path} is damaged, or no TFRecord file: there is no whole record at "
                        f"byte {limits[-1]}; make the file again, or take it out of input_path"
                    )
                limits.append(limits[-1] + size)
    except tf.errors.OpError as error:
        raise UserError(f"cannot read the record file {path}: {error.message}") from error
    return np.array(limits, np.int64)


def example_reader(index: ExampleIndex, cache: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    """`index.read`; with `cache` each example is kept in memory once it was read."""
    if not cache:
        return index.read
    kept = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, default_value="")

    def read_and_keep(number: tf.Tensor) -> tf.Tensor:
        example = index.read(number)
        with tf.control_dependencies([kept.insert(number, example)]):
            return tf.identity(example)

    def look_up(number: tf.Tensor) -> tf.Tensor:
        example = kept.lookup(number)
        return tf.cond(tf.equal(example, ""), lambda: read_and_keep(number), lambda: example)

    return look_up


def training_order(
    num_examples: int, config: DataConfig, seed: int, first: int = 0
) -> tf.data.Dataset:
    """Endless pairs of place and example, int64, every example once an epoch.

    Each epoch is one permutation of all examples, of the seed and the epoch; with
    `shuffle_buffer_size` 1 they come as they stand in the files.

    Args:
      num_examples: in an epoch.
      config: for shuffle_buffer_size.
      seed: of the order.
      first: place in the training, counted in examples, to begin at.
    """

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        examples = tf.range(num_examples, dtype=tf.int64)
        if config.shuffle_buffer_size != 1:
            examples = tf.random.experimental.stateless_shuffle(examples, tf.stack([seed, number]))
        return tf.data.Dataset.from_tensor_slices(examples)

    epochs = tf.data.Dataset.counter(first // num_examples)
    examples = epochs.flat_map(epoch).skip(first % num_examples)
    return tf.data.Dataset.zip(tf.data.Dataset.counter(first), examples)


def evaluation_order(num_examples: int, global_batch_size: int) -> tf.data.Dataset:
    """Pairs of place and example, int64, filled up with example -1 to whole global batches."""
    places = tf.data.Dataset.range(-(-num_examples // global_batch_size) * global_batch_size)
    return places.map(lambda place: (place, tf.where(place < num_examples, place, -1)))


def own_share(
    order: tf.data.Dataset, global_batch_size: int, context: tf.distribute.InputContext | None
) -> tf.data.Dataset:
    """The part of each global batch that belongs to an input pipeline.

    So all pipelines end together, and a batch is the same however many there are.
    """
    if context is None or context.num_input_pipelines == 1:
        return order
    share = global_batch_size // context.num_input_pipelines
    begin = context.input_pipeline_id * share
    batches = order.batch(global_batch_size, drop_remainder=True)
    return batches.map(lambda *batch: [part[begin : begin + share] for part in batch]).unbatch()


def map_in_parallel(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """`dataset.map` with a call at a time for each core.

    In place of tf.data's autotuner: its thread sleeps for up to a minute, and may miss that it is
    told to end, while whoever ends the iteration waits for it (seen in TensorFlow 2.20).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    calls = len(os.sched_getaffinity(0))
    return dataset.map(function, num_parallel_calls=calls).with_options(options)


def _has_instances(serialized: tf.Tensor) -> tf.Tensor:
    """Whether an example has an instance that is not a crowd, without decoding its image."""
    many = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
    features = {"image/object/class/label": many, "image/object/is_crowd": many}
    example = tf.io.parse_single_example(serialized, features)
    num_crowds = tf.math.count_nonzero(example["image/object/is_crowd"], dtype=tf.int32)
    return tf.size(example["image/object/class/label"]) > num_crowds
