"""Masks relative to boxes: training targets, and predicted masks pasted into images.

Targets are cut from full-size masks, or from one box to another. Both functions answer the same
question for each cell of the target grid: does the mask cover at least half of it? Pixel k of an
image covers [k, k + 1), so areas are exact and there is no half-pixel shift to get wrong; a mask
that fills its box gives a target of ones at any size. (Bilinear samples at the cells' centres would
round the corners of small objects off.)
"""

import tensorflow as tf

_HALF = 0.5 - 1e-4  # exact halves count as covered, whatever the rounding
_MIN_STEP = 1e-6  # of degenerate boxes, whose targets are then empty


def _coverage(start: tf.Tensor, stop: tf.Tensor, num_bins: int, num_cells: tf.Tensor) -> tf.Tensor:
    """Fraction [..., num_bins, num_cells] of each bin that lies in each unit cell [k, k + 1).

    The bins divide [start, stop) evenly; what lies outside of [0, num_cells) is in no cell.
    """
    step = tf.maximum((stop - start) / num_bins, _MIN_STEP)[..., None]  # [..., 1]
    low = start[..., None] + step * tf.range(num_bins, dtype=tf.float32)  # [..., num_bins]
    low, high = low[..., None], (low + step)[..., None]  # [..., num_bins, 1]
    cells = tf.range(tf.cast(num_cells, tf.float32))
    overlap = tf.minimum(high, cells + 1.0) - tf.maximum(low, cells)
    return tf.nn.relu(overlap) / step[..., None]


def crop_mask(mask: tf.Tensor, box: tf.Tensor, size: int, threshold: float = 0.0) -> tf.Tensor:
    """Target of one full-size mask inside a box.

    Args:
      mask: uint8 [h, w], positive where above `threshold`.
      box: float32 [4], (ymin, xmin, ymax, xmax) in pixels of the mask; may be fractional, and may
        reach over its edges, where the mask is 0.
      size: cells along each side of the target.
      threshold: 0 serves masks stored as 0/1 and as 0/255.

    Returns:
      uint8 [size, size] in {0, 1}.
    """
    shape = tf.shape(mask)
    first = tf.clip_by_value(tf.cast(tf.floor(box[:2]), tf.int32), 0, shape)
    last = tf.clip_by_value(tf.cast(tf.math.ceil(box[2:]), tf.int32), first, shape)
    region = mask[first[0] : last[0], first[1] : last[1]]
    positive = tf.cast(region > int(threshold), tf.float32)  # the same for whole numbers
    box -= tf.cast(tf.tile(first, [2]), tf.float32)
    rows = _coverage(box[0], box[2], size, last[0] - first[0])  # [size, h']
    columns = _coverage(box[1], box[3], size, last[1] - first[1])  # [size, w']
    covered = tf.linalg.matmul(tf.linalg.matmul(rows, positive), columns, transpose_b=True)
    return tf.ensure_shape(tf.cast(covered >= _HALF, tf.uint8), [size, size])


def resample_mask_targets(
    masks: tf.Tensor, source_boxes: tf.Tensor, target_boxes: tf.Tensor, size: int
) -> tf.Tensor:
    """Mask targets of RoIs, out of mask targets of the instances that they match.

    Args:
      masks: [m, s, s] in {0, 1}, each relative to its source box.
      source_boxes: float32 [m, 4], (ymin, xmin, ymax, xmax), of the instances.
      target_boxes: float32 [m, 4], of the RoIs, in the same coordinates.
      size: cells along each side of the result.

    Returns:
      float32 [m, size, size] in {0, 1}; 0 outside of the source box. Equal boxes with size == s
      give the masks unchanged. Compiles with XLA when s is static.
    """
    cells = masks.shape[-1]
    origin, extent = source_boxes[:, :2], source_boxes[:, 2:] - source_boxes[:, :2]
    extent = tf.maximum(extent, _MIN_STEP)
    start = (target_boxes[:, :2] - origin) / extent * cells  # [m, 2]
    stop = (target_boxes[:, 2:] - origin) / extent * cells
    rows = _coverage(start[:, 0], stop[:, 0], size, cells)  # [m, size, s]
    columns = _coverage(start[:, 1], stop[:, 1], size, cells)
    covered = tf.linalg.matmul(rows, tf.cast(masks, tf.float32))  # [m, size, s]
    covered = tf.linalg.matmul(covered, columns, transpose_b=True)  # [m, size, size]
    return tf.cast(covered >= _HALF, tf.float32)


def paste_masks(masks: tf.Tensor, boxes: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
    """Masks of an image's size, by the rule of `evaluation.pasting`; work grows with the boxes.

    A pixel belongs to the mask if its centre lies in the box and the probability there, read from
    the crop by bilinear interpolation with half-pixel centres, is at least 0.5.

    Args:
      masks: float32 [n, s, s], n > 0, probabilities relative to the boxes; NaN counts as 0.
      boxes: float32 [n, 4], (ymin, xmin, ymax, xmax) in pixels of the image.
      image_size: int32 [2], height and width.

    Returns:
      uint8 [n, height, width] of 0 and 1.
    """
    masks = tf.where(tf.math.is_nan(masks), 0.0, masks)
    is_finite = tf.reduce_all(tf.math.is_finite(boxes), axis=-1, keepdims=True)
    boxes = tf.cast(tf.where(is_finite, boxes, 0.0), tf.float64)

    def paste(mask_and_box: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        mask, box = mask_and_box
        first, last, weights = zip(
            *(
                _interpolation(box[axis], box[axis + 2], mask.shape[axis], image_size[axis])
                for axis in range(2)
            ),
            strict=True,
        )
        values = tf.linalg.matmul(weights[0], mask)  # [rows of the box, s]
        values = tf.linalg.matmul(values, weights[1], transpose_b=True)  # [rows, columns]
        paddings = tf.stack([first, image_size - tf.stack(last)], axis=-1)
        return tf.pad(tf.cast(values >= 0.5, tf.uint8), paddings)

    return tf.map_fn(
        paste, (masks, boxes), fn_output_signature=tf.TensorSpec([None, None], tf.uint8)
    )


def _interpolation(
    start: tf.Tensor, stop: tf.Tensor, num_cells: int, length: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """First and one-past-last of the pixels between start and stop, and of which cells they are.

    Returns:
      Two int32 scalars, and the weights [pixels, num_cells] of the cells in each pixel.
    """
    limit = tf.cast(length, tf.float64)
    first = tf.clip_by_value(tf.math.ceil(start - 0.5), 0.0, limit)
    last = tf.clip_by_value(tf.math.ceil(stop - 0.5), first, limit)
    position = (tf.range(first, last) + 0.5 - start) / (stop - start) * num_cells - 0.5
    position = tf.clip_by_value(position, 0.0, num_cells - 1.0)
    distance = tf.abs(position[:, None] - tf.range(num_cells, dtype=tf.float64))
    weights = tf.cast(tf.nn.relu(1.0 - distance), tf.float32)
    return tf.cast(first, tf.int32), tf.cast(last, tf.int32), weights
