"""RoIAlign over a feature pyramid (Mask R-CNN, arXiv 1703.06870, section 3)."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import tensorflow as tf

from official_maskrcnn.ops.scheduling import together

_CANONICAL_SIZE = 224.0  # a RoI of this side belongs to _CANONICAL_LEVEL (FPN, arXiv 1612.03144)
_CANONICAL_LEVEL = 4


def assign_levels(boxes: tf.Tensor, min_level: int, max_level: int) -> tf.Tensor:
    """Pyramid level [m] int32 from which each box [m, 4] is cropped (FPN, equation 1)."""
    sides = tf.sqrt(tf.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1e-12))
    octaves = tf.floor(tf.math.log(sides / _CANONICAL_SIZE) / tf.math.log(2.0))
    return tf.clip_by_value(tf.cast(octaves, tf.int32) + _CANONICAL_LEVEL, min_level, max_level)


def roi_align(
    features: Mapping[str, tf.Tensor],
    boxes: tf.Tensor,
    batch_indices: tf.Tensor,
    crop_size: int,
    sampling_ratio: int = 2,
    half_pixel: bool = True,
    static_shapes: bool = False,
) -> tf.Tensor:
    """Crops RoIs out of the level that suits their size, each bin the mean of bilinear samples.

    Args:
      features: level name to [b, height_l, width_l, c]; level l has stride 2**l.
      boxes: [m, 4] in pixels of the network input, not beyond its edges.
      batch_indices: int32 [m], the image of each box.
      crop_size: bins along each side.
      sampling_ratio: samples along each side of a bin.
      half_pixel: cell k of a feature map has its centre at k + 0.5 (right); False takes k, which
        shifts crops by half a cell, as tf-models-official does.
      static_shapes: use operations that XLA compiles; slower on a CPU.

    Returns:
      [m, crop_size, crop_size, c] in the features' dtype. Samples outside of a feature map take
      its nearest value.
    """
    levels = sorted(int(level) for level in features)
    channels = features[str(levels[0])].shape[-1]
    # The pyramid as one table of cells: all levels are cropped at once.
    cells = tf.concat([tf.reshape(features[str(level)], [-1, channels]) for level in levels], 0)
    samples = _bilinear_samples(
        {level: tf.shape(features[str(level)]) for level in levels},
        boxes,
        batch_indices,
        crop_size * sampling_ratio,
        shift=0.5 if half_pixel else 0.0,
    )
    crop = _crop_by_gather if static_shapes else _crop_by_sparse_product
    crops = crop(cells, samples, sampling_ratio)
    return tf.ensure_shape(crops, [None, crop_size, crop_size, channels])


class _Samples(NamedTuple):
    """Sampling points on a grid, each between two rows and two columns of cells.

    Attributes:
      rows: int32 [m, n, 2], the first cell of each of the two rows, as index into the table.
      columns: int32 [m, n, 2], to be added to it.
      row_weights: float32 [m, n, 2], with sum 1.
      column_weights: likewise.
    """

    rows: tf.Tensor
    columns: tf.Tensor
    row_weights: tf.Tensor
    column_weights: tf.Tensor


def _bilinear_samples(
    shapes: Mapping[int, tf.Tensor],
    boxes: tf.Tensor,
    batch_indices: tf.Tensor,
    samples: int,
    shift: float,
) -> _Samples:
    """Where n = `samples` points along each side of each box lie; `shapes` is of each level."""
    # Boxes of a diverged model crop anything: it is for the loss to tell.
    boxes = tf.where(tf.math.is_finite(boxes), boxes, 0.0)
    levels = sorted(shapes)
    sizes = tf.stack([shapes[level][1:3] for level in levels])  # [levels, 2]
    batch = shapes[levels[0]][0]
    offsets = tf.cumsum(batch * sizes[:, 0] * sizes[:, 1], exclusive=True)  # [levels]
    box_levels = assign_levels(boxes, levels[0], levels[-1])
    size = tf.gather(sizes, box_levels - levels[0])  # [m, 2]
    base = tf.gather(offsets, box_levels - levels[0]) + batch_indices * size[:, 0] * size[:, 1]

    boxes /= tf.pow(2.0, tf.cast(box_levels, tf.float32))[:, None]  # in cells
    step = (boxes[:, 2:] - boxes[:, :2])[..., None] / samples  # [m, 2, 1]
    positions = boxes[:, :2, None] + step * (tf.range(samples, dtype=tf.float32) + 0.5) - shift
    last_cell = tf.cast(size[:, :, None] - 1, tf.float32)
    positions = tf.clip_by_value(positions, 0.0, last_cell)  # [m, 2, n]
    low = tf.floor(positions)
    neighbours = tf.cast(tf.stack([low, tf.minimum(low + 1.0, last_cell)], -1), tf.int32)
    weights = tf.stack([1.0 - (positions - low), positions - low], -1)  # [m, 2, n, 2]
    return _Samples(
        base[:, None, None] + neighbours[:, 0] * size[:, 1, None, None],
        neighbours[:, 1],
        weights[:, 0],
        weights[:, 1],
    )


def _by_bin(samples: _Samples, sampling_ratio: int) -> Iterator[tf.Tensor]:
    """Rows, columns and their weights [m, crop_size, k]: the k of them that a bin is the sum of."""
    for values in samples:
        num_bins = values.shape[1] // sampling_ratio
        values = tf.reshape(values, [-1, num_bins, 2 * sampling_ratio])
        yield values / sampling_ratio if values.dtype.is_floating else values


def _crop_by_sparse_product(cells: tf.Tensor, samples: _Samples, sampling_ratio: int) -> tf.Tensor:
    """The crops as a sparse matrix times the table, and its transpose for the gradient.

    TensorFlow's own kernel for crops adds up its gradient in several threads that overwrite each
    other's sums (CropAndResizeGradImage on a CPU), besides being slower. The sparse kernels know no
    bfloat16.
    """

    rows, columns, row_weights, column_weights = _by_bin(samples, sampling_ratio)
    # [m, crop_size, crop_size, k, k]
    read = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]

    crop_size, reads = read.shape[1], read.shape[3] * read.shape[4]
    num_bins = tf.shape(read)[0] * crop_size**2
    written = tf.repeat(tf.range(num_bins), reads)
    matrix = tf.raw_ops.SparseTensorToCSRSparseMatrix(
        indices=tf.cast(tf.stack([written, tf.reshape(read, [-1])], axis=-1), tf.int64),
        values=tf.reshape(weights, [-1]),
        dense_shape=tf.cast(tf.stack([num_bins, tf.shape(cells)[0]]), tf.int64),
    )

    @tf.custom_gradient
    def product(cells: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(of_bins: tf.Tensor) -> tf.Tensor:
            transposed = tf.raw_ops.SparseMatrixTranspose(input=matrix, type=tf.float32)
            return tf.raw_ops.SparseMatrixMatMul(a=transposed, b=of_bins)

        return tf.raw_ops.SparseMatrixMatMul(a=matrix, b=cells), gradient

    crops = product(tf.cast(cells, tf.float32))
    crops = tf.reshape(crops, [-1, crop_size, crop_size, cells.shape[-1]])
    return tf.cast(crops, cells.dtype)


def _crop_by_gather(cells: tf.Tensor, samples: _Samples, sampling_ratio: int) -> tf.Tensor:
    """The crops as weighted sums of gathered cells, which XLA compiles; slower on a CPU.

    RoIs are the last dimension of all but the cells, and the first but one of those: a TPU pads the
    last two dimensions of an array, and would pad the few bins and reads by as much again. It also
    reads an array in tiles of up to 8 rows by 128 columns: a cell has tiles of its own.
    """
    rows, columns, row_weights, column_weights = (
        tf.transpose(values, [2, 1, 0]) for values in _by_bin(samples, sampling_ratio)
    )  # [k, crop_size, m]
    # [k, k, crop_size, crop_size, m]
    read = rows[:, None, :, None] + columns[None, :, None, :]
    weights = row_weights[:, None, :, None] * column_weights[None, :, None, :]
    k, crop_size, channels = read.shape[0], read.shape[2], cells.shape[-1]
    # One row of each bin after the other: what all rows read would be the step's largest array.
    read = tf.unstack(tf.reshape(read, [k, k, -1, 1]))  # k of [k, bins of all RoIs, 1]
    weights = tf.unstack(tf.reshape(weights, [k, k, -1, 1]))

    # TensorFlow's own gradient would ask which of the gathered rows come from which level of the
    # pyramid: as many as there are, which is no shape for a TPU, and minutes of work for XLA.
    @tf.custom_gradient
    def crop(cells: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(of_bins: tf.Tensor) -> tf.Tensor:
            of_bins = tf.cast(tf.reshape(of_bins, [1, -1, channels]), tf.float32)
            total = tf.zeros(tf.shape(cells))
            for indices, weight in zip(read, weights, strict=True):
                total, of_bins = together(total, of_bins)
                total = tf.tensor_scatter_nd_add(total, indices, of_bins * weight)
            return tf.cast(total, cells.dtype)

        lanes = math.gcd(channels, 128)
        tiles = tf.reshape(cells, [-1, channels // lanes, lanes])
        bins = tf.zeros([tf.shape(read[0])[1], *tiles.shape[1:]])
        for indices, weight in zip(read, weights, strict=True):
            bins, indices = together(bins, indices)
            cells_read = tf.cast(tf.gather_nd(tiles, indices), tf.float32)
            bins += tf.reduce_sum(cells_read * weight[..., None], axis=0)
        return tf.cast(tf.reshape(bins, [-1, channels]), cells.dtype), gradient

    crops = tf.reshape(crop(cells), [crop_size, crop_size, -1, channels])
    return tf.transpose(crops, [2, 0, 1, 3])
