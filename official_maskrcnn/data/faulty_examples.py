"""Examples that cannot be read or decoded: named, left out, and counted up to a limit.

All of it is operations of a graph: a call into Python out of a thread that reads data would keep
the process from ending.
"""

import sys
from collections.abc import Callable

import tensorflow as tf

from official_maskrcnn.configs.task import DataConfig
from official_maskrcnn.data.reader import ExampleIndex
from official_maskrcnn.errors import DATA_FAULT

Element = dict[str, tf.Tensor]


class FaultyExamples:
    """The damaged examples of a data set, as they are found."""

    def __init__(self, index: ExampleIndex, config: DataConfig):
        """Knows none yet.

        Args:
          index: of all examples.
          config: for `max_faulty_examples` and `is_training`.
        """
        self._index, self._is_training = index, config.is_training
        self._limit = config.max_faulty_examples
        self._found = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, 0)

    def element(
        self,
        place: tf.Tensor,
        number: tf.Tensor,
        parse: Callable[[tf.Tensor, tf.Tensor], Element],
        pad: Callable[..., Element],
    ) -> Element:
        """What stands at a place of the data, in a graph.

        Args:
          place: int64 scalar.
          number: int64 scalar, of the example there; -1 for padding.
          parse: of a place and a number.
          pad: the padding. It also stands in for a damaged example of an evaluation; in training
            the next example does that is not damaged.

        Raises:
          tf.errors.OpError: there are too many damaged ones; names the last.
        """

        def attempt(number: tf.Tensor) -> tf.data.Dataset:
            one = tf.data.Dataset.from_tensors(number)
            parsed = one.map(lambda number: parse(place, number)).ignore_errors()
            return parsed.concatenate(one.filter(self._stands_padding_in).map(pad))

        if not self._is_training:
            return tf.cond(number < 0, pad, attempt(number).take(1).get_single_element)
        count = len(self._index)
        others = tf.data.Dataset.range(1, count).map(lambda i: (number + i) % count)
        found = attempt(number).concatenate(others.flat_map(attempt))
        return found.take(1).get_single_element()

    def _stands_padding_in(self, number: tf.Tensor) -> tf.Tensor:
        """Notes a damaged example; whether padding takes its place, and not the next example."""
        is_known = self._found.lookup(number) > 0
        with tf.control_dependencies([is_known]):
            noted = self._found.insert(number, tf.constant(1, tf.int64))
        with tf.control_dependencies([noted]):
            count = self._found.size()
        part = "train_data" if self._is_training else "validation_data"
        name = tf.strings.join(
            [self._index.name(number), " cannot be read: ", self._reason(number)]
        )
        too_many = tf.strings.join(
            [
                *(DATA_FAULT, name, "; ", tf.as_string(count), " damaged example(s) so far, task."),
                f"{part}.max_faulty_examples ({self._limit}) are allowed",
            ]
        )
        check = tf.debugging.Assert(count <= self._limit, [too_many])
        with tf.control_dependencies([check]):
            told = tf.cond(is_known, tf.no_op, lambda: _warn(count, name))
        with tf.control_dependencies([told]):
            return tf.constant(not self._is_training)

    def _reason(self, number: tf.Tensor) -> tf.Tensor:
        matching = tf.io.matching_files(self._index.path(number))
        return tf.where(
            tf.size(matching) > 0, "it is damaged, or its image is", "No such file, it has vanished"
        )


def _warn(count: tf.Tensor, name: tf.Tensor) -> tf.Operation:
    return tf.print("WARNING: left out,", count, "so far:", name, output_stream=sys.stderr)
