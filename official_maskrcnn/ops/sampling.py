"""Random choice of training examples, and packing of the chosen ones; without loops over images."""

from typing import NamedTuple

import tensorflow as tf

from official_maskrcnn.ops import random


def _keep_random(mask: tf.Tensor, priority: tf.Tensor, count: tf.Tensor, limit: int) -> tf.Tensor:
    """Of the True entries of mask [b, n] the `count` [b] of highest priority; count <= limit."""
    shape = tf.shape(mask)
    limit = tf.minimum(limit, shape[1])
    order = tf.math.top_k(tf.where(mask, priority, -1.0), k=limit).indices  # [b, limit]
    kept = tf.range(limit)[None] < count[:, None]  # [b, limit]
    rows = tf.repeat(tf.range(shape[0])[:, None], limit, axis=1)
    return tf.scatter_nd(tf.stack([rows, order], axis=-1), tf.cast(kept, tf.int32), shape) > 0


def sample_balanced(
    foreground: tf.Tensor,
    background: tf.Tensor,
    num_samples: int,
    foreground_fraction: float,
    seeds: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws at most `num_samples` an image, of which at most a fraction from the foreground.

    Args:
      foreground: [b, n] bool.
      background: [b, n] bool, disjoint from foreground.
      num_samples: per image; background fills what the foreground leaves.
      foreground_fraction: in [0, 1].
      seeds: uint32 [b], of `ops.random`.

    Returns:
      Sampled foreground and sampled background, [b, n] bool.
    """
    priority = random.uniform(seeds, tf.shape(foreground)[1])
    max_foreground = int(num_samples * foreground_fraction)
    num_foreground = tf.minimum(_count(foreground), max_foreground)  # [b]
    sampled_foreground = _keep_random(foreground, priority, num_foreground, max_foreground)
    num_background = tf.minimum(_count(background), num_samples - num_foreground)
    sampled_background = _keep_random(background, priority, num_background, num_samples)
    return sampled_foreground, sampled_background


def sample_indices(
    foreground: tf.Tensor,
    background: tf.Tensor,
    num_samples: int,
    foreground_fraction: float,
    seeds: tf.Tensor,
) -> tf.Tensor:
    """Indices [b, num_samples] of a balanced draw, the foreground first.

    Where an image has fewer candidates than `num_samples`, more foreground than its fraction is
    taken, and then candidates are repeated, so that there is never a padding sample. An image
    without any candidate gives its first entry.
    """
    sampling_seeds, filling_seeds = random.split(seeds, 2)
    sampled_foreground, sampled_background = sample_balanced(
        foreground, background, num_samples, foreground_fraction, sampling_seeds
    )
    group = (
        tf.cast(foreground, tf.float32)
        + tf.cast(sampled_background, tf.float32) * 2.0
        + tf.cast(sampled_foreground, tf.float32) * 3.0
    )  # 4 sampled foreground, 2 sampled background, 1 more foreground, 0 neither
    priority = group + 0.5 * random.uniform(filling_seeds, tf.shape(group)[1])
    order = tf.math.top_k(priority, k=tf.minimum(num_samples, tf.shape(group)[1])).indices
    usable = tf.minimum(_count(group > 0.0), tf.shape(order)[1])  # [b]
    slots = tf.range(num_samples)[None] % tf.maximum(usable, 1)[:, None]  # [b, num_samples]
    return tf.gather(order, slots, batch_dims=1)


def _count(mask: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(mask, tf.int32), axis=-1)


class Packed(NamedTuple):
    """The chosen entries of a [b, n] grid, side by side.

    Attributes:
      batch_indices: int32 [m].
      slots: int32 [m], so that entry i is grid[batch_indices[i], slots[i]].
      weights: float32 [m], 1 for an entry, 0 for padding (static packing only).
      num_dropped: int32 scalar, entries for which there was no room.
    """

    batch_indices: tf.Tensor
    slots: tf.Tensor
    weights: tf.Tensor
    num_dropped: tf.Tensor

    def gather(self, grid: tf.Tensor) -> tf.Tensor:
        """Entries [m, ...] of a grid [b, n, ...]."""
        return tf.gather_nd(grid, tf.stack([self.batch_indices, self.slots], axis=-1))


def pack(chosen: tf.Tensor, capacity: int | None = None, min_size: int = 0) -> Packed:
    """Packs the True entries of `chosen` [b, n], over all images, into one dense set.

    Args:
      chosen: [b, n] bool.
      capacity: None for as many as there are (a dynamic shape); else exactly this many slots,
        unused ones with weight 0.
      min_size: without a capacity, pad to at least this many.
    """
    if capacity is None:
        indices = tf.cast(tf.where(chosen), tf.int32)  # [m, 2]
        weights = tf.ones([tf.shape(indices)[0]])
        missing = tf.maximum(min_size - tf.shape(indices)[0], 0)
        indices = tf.pad(indices, [[0, missing], [0, 0]])
        weights = tf.pad(weights, [[0, missing]])
        return Packed(indices[:, 0], indices[:, 1], weights, tf.constant(0))
    num_slots = tf.shape(chosen)[1]
    flat = tf.reshape(tf.cast(chosen, tf.float32), [-1])
    # top_k is stable: overflow takes from the last images.
    weights, order = tf.math.top_k(flat, k=capacity)
    dropped = tf.reduce_sum(tf.cast(chosen, tf.int32)) - tf.cast(tf.reduce_sum(weights), tf.int32)
    return Packed(order // num_slots, order % num_slots, weights, dropped)
