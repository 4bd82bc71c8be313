"""Non-maximum suppression over a batch of images."""

import tensorflow as tf

from official_maskrcnn.ops import boxes as box_ops


def suppress(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    iou_threshold: float,
    max_outputs: int,
    static_shapes: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Greedy suppression: a box goes if its IoU with a kept, higher-scored one is over a threshold.

    Args:
      boxes: [b, n, 4].
      scores: [b, n]; entries below 0 are padding.
      iou_threshold: in [0, 1].
      max_outputs: at most this many are kept an image.
      static_shapes: use operations that XLA compiles; slower on a CPU.

    Returns:
      Indices int32 [b, max_outputs] of the kept boxes, best first, and which of them are real,
      bool [b, max_outputs].
    """
    if static_shapes:
        order = tf.argsort(scores, axis=-1, direction="DESCENDING", stable=True)  # [b, n]
        boxes = tf.gather(boxes, order, batch_dims=1)
        scores = tf.gather(scores, order, batch_dims=1)
        kept = _keep_sorted(boxes, scores >= 0.0, iou_threshold)
        positions, real = _first_true(kept, max_outputs)
        return tf.gather(order, positions, batch_dims=1), real

    def suppress_image(image: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        indices, num_kept = tf.raw_ops.NonMaxSuppressionV4(
            boxes=image[0],
            scores=image[1],
            max_output_size=max_outputs,
            iou_threshold=iou_threshold,
            score_threshold=-0.5,
            pad_to_max_output_size=True,
        )
        return indices, num_kept

    indices, num_kept = tf.map_fn(
        suppress_image, (boxes, scores), fn_output_signature=(tf.int32, tf.int32)
    )
    indices = tf.ensure_shape(indices, [None, max_outputs])
    return indices, tf.range(max_outputs)[None] < num_kept[:, None]


def suppress_per_class(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_outputs: int,
    max_candidates: int,
    soft_nms_sigma: float | None = None,
    static_shapes: bool = False,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Detections of an image: suppression within each class, then the best of all classes.

    Args:
      boxes: [b, n, k, 4]; k is the number of classes, or 1 if they share their boxes.
      scores: [b, n, classes], without the background.
      iou_threshold: in [0, 1].
      score_threshold: lower scores are no candidates.
      max_outputs: detections an image.
      max_candidates: (box, class) pairs an image that are looked at with static shapes.
      soft_nms_sigma: None, or the sigma by which Soft-NMS (arXiv 1704.04503) lowers the scores of
        overlapped boxes instead of removing them.
      static_shapes: use operations that XLA compiles.

    Returns:
      boxes [b, max_outputs, 4], scores [b, max_outputs], class indices int32 [b, max_outputs] (0 is
      the first class), and the number of detections int32 [b]; the rest is 0.

    Raises:
      ValueError: Soft-NMS with static shapes.
    """
    if soft_nms_sigma is not None:
        if static_shapes:
            raise ValueError("Soft-NMS has no XLA version: leave soft_nms_sigma out")
        scores = _soften(boxes, scores, iou_threshold, score_threshold, max_outputs, soft_nms_sigma)
    elif not static_shapes:
        result = tf.image.combined_non_max_suppression(
            boxes,
            scores,
            max_output_size_per_class=max_outputs,
            max_total_size=max_outputs,
            iou_threshold=iou_threshold,
            score_threshold=score_threshold,
            clip_boxes=False,
        )
        return result[0], result[1], tf.cast(result[2], tf.int32), result[3]
    else:
        scores = tf.where(scores > score_threshold, scores, -1.0)

    num_classes = tf.shape(scores)[2]
    num_candidates = max_outputs if soft_nms_sigma is not None else max_candidates
    flat_scores = tf.reshape(scores, [tf.shape(scores)[0], -1])  # [b, n * classes]
    scores, pairs = tf.math.top_k(
        flat_scores, k=tf.minimum(num_candidates, tf.shape(flat_scores)[1])
    )  # [b, p]
    classes = pairs % num_classes
    shared = boxes.shape[2] == 1
    flat_boxes = tf.reshape(boxes, [tf.shape(boxes)[0], -1, 4])
    boxes = tf.gather(flat_boxes, pairs // num_classes if shared else pairs, batch_dims=1)
    kept = scores >= 0.0
    if soft_nms_sigma is None:
        kept = _keep_sorted(boxes, kept, iou_threshold, classes)
    positions, real = _first_true(kept, max_outputs)

    def take(values: tf.Tensor) -> tf.Tensor:
        return tf.gather(values, positions, batch_dims=1)

    return (
        tf.where(real[..., None], take(boxes), 0.0),
        tf.where(real, take(scores), 0.0),
        tf.where(real, take(classes), 0),
        tf.reduce_sum(tf.cast(real, tf.int32), axis=-1),
    )


def _keep_sorted(
    boxes: tf.Tensor, valid: tf.Tensor, iou_threshold: float, classes: tf.Tensor | None = None
) -> tf.Tensor:
    """Which of the boxes [b, n, 4], sorted by falling score, greedy suppression keeps: [b, n] bool.

    All pairs at once: "a box stays unless a box that stays suppresses it" is applied until nothing
    changes, which gives the greedy result (Cluster-NMS, arXiv 2005.03572, section 3.3).
    """
    conflict = box_ops.pairwise_iou(boxes, boxes) > iou_threshold  # [b, n, n]
    rank = tf.range(tf.shape(boxes)[1])
    conflict &= rank[None, :, None] < rank[None, None, :]  # the first index suppresses
    conflict &= valid[:, :, None] & valid[:, None, :]
    if classes is not None:
        conflict &= classes[:, :, None] == classes[:, None, :]
    conflict = tf.cast(conflict, tf.float32)

    def apply_rule(kept: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        suppressed = tf.linalg.matvec(conflict, tf.cast(kept, tf.float32), transpose_a=True) > 0.0
        now_kept = valid & ~suppressed
        return now_kept, tf.reduce_any(now_kept != kept)

    return tf.while_loop(lambda _, changed: changed, apply_rule, (valid, tf.constant(True)))[0]


def _first_true(mask: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Positions int32 [b, count] of the first True entries of mask [b, n], and which exist."""
    missing = tf.maximum(count - tf.shape(mask)[1], 0)
    mask = tf.pad(mask, [[0, 0], [0, missing]])
    found, positions = tf.math.top_k(tf.cast(mask, tf.int32), k=count)  # stable: first ones first
    real = found > 0
    return tf.where(real, positions, 0), real


def _soften(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_outputs: int,
    sigma: float,
) -> tf.Tensor:
    """Scores [b, n, classes] after Soft-NMS within each class; -1 where a box was left out."""
    b, n, num_classes = tf.unstack(tf.shape(scores))
    boxes = tf.broadcast_to(boxes, [b, n, num_classes, 4])
    class_boxes = tf.reshape(tf.transpose(boxes, [0, 2, 1, 3]), [-1, n, 4])
    class_scores = tf.reshape(tf.transpose(scores, [0, 2, 1]), [-1, n])

    def soften_class(one: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        indices, softened = tf.image.non_max_suppression_with_scores(
            one[0], one[1], max_outputs, iou_threshold, score_threshold, sigma
        )
        return tf.tensor_scatter_nd_update(tf.fill([n], -1.0), indices[:, None], softened)

    softened = tf.map_fn(
        soften_class, (class_boxes, class_scores), fn_output_signature=tf.TensorSpec([None])
    )
    return tf.transpose(tf.reshape(softened, [b, num_classes, n]), [0, 2, 1])
