"""Random numbers of each image that depend on nothing but a seed, the image and the step.

So a training draws the same however its batches are shared out among devices and processes, and
again after it was stopped. An image's seed is a uint32; counted up and mixed by the finaliser of
MurmurHash3 (Austin Appleby, public domain), it gives numbers as good as sampling needs, in a few
operations that every device has.
"""

import tensorflow as tf

_MIXING = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))  # shift, factor
_LAST_SHIFT = 16
_INCREMENT = 0x9E3779B9  # 2**32 over the golden ratio: spreads consecutive numbers
_MANTISSA_BITS = 24  # of float32, so that every number below 2**24 is exact


def image_seeds(source_ids: tf.Tensor, step: tf.Tensor, seed: int) -> tf.Tensor:
    """Seeds uint32 [b] of images in a training step.

    Args:
      source_ids: int64 [b].
      step: int scalar.
      seed: of the run.
    """
    words = (tf.bitwise.bitwise_and(source_ids, 0xFFFFFFFF), source_ids // 2**32, step)
    mixed = tf.constant(seed % 2**32, tf.uint32)
    for word in words:
        mixed = _mix(mixed * _INCREMENT + tf.cast(word, tf.uint32) + 1)
    return mixed


def split(seeds: tf.Tensor, number: int) -> list[tf.Tensor]:
    """So many independent seeds uint32 [b] of each seed [b]."""
    steps = (tf.constant((i + 1) * _INCREMENT % 2**32, tf.uint32) for i in range(number))
    return [_mix(seeds + step) for step in steps]


def uniform(seeds: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    """Numbers [b, count] in [0, 1); the first of them do not depend on how many there are."""
    places = tf.cast(tf.range(count), tf.uint32) * _INCREMENT
    bits = _mix(_mix(seeds[:, None] + places) + seeds[:, None])
    kept = tf.bitwise.right_shift(bits, tf.constant(32 - _MANTISSA_BITS, tf.uint32))
    return tf.cast(kept, tf.float32) / 2.0**_MANTISSA_BITS


def _mix(values: tf.Tensor) -> tf.Tensor:
    for shift, factor in _MIXING:
        values = _xor_shift(values, shift) * tf.constant(factor, tf.uint32)
    return _xor_shift(values, _LAST_SHIFT)


def _xor_shift(values: tf.Tensor, shift: int) -> tf.Tensor:
    shifted = tf.bitwise.right_shift(values, tf.constant(shift, tf.uint32))
    return tf.bitwise.bitwise_xor(values, shifted)
