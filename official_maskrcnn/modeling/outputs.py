"""What the model hands to the losses."""

from typing import NamedTuple

import tensorflow as tf

from official_maskrcnn.modeling import roi_sampling


class BoxStage(NamedTuple):
    """Training outputs of one box head.

    Attributes:
      class_logits: [b, k, classes].
      box_outputs: [b, k, classes or 1, 4].
      labels: the RoIs and their targets.
    """

    class_logits: tf.Tensor
    box_outputs: tf.Tensor
    labels: roi_sampling.LabelledRoIs


class MaskOutputs(NamedTuple):
    """Training outputs of the mask head, on a packed set of m RoIs.

    Attributes:
      logits: [m, s, s].
      targets: [m, s, s] of 0 and 1.
      weights: [m], 0 for padding.
      num_dropped: int32 scalar, RoIs for which a static set had no room.
    """

    logits: tf.Tensor
    targets: tf.Tensor
    weights: tf.Tensor
    num_dropped: tf.Tensor


class TrainingOutputs(NamedTuple):
    """What the losses need.

    Attributes:
      rpn_logits: level to [b, a_l].
      rpn_deltas: level to [b, 4, a_l].
      stages: one for each box head.
      masks: None for a model without masks.
    """

    rpn_logits: dict[str, tf.Tensor]
    rpn_deltas: dict[str, tf.Tensor]
    stages: tuple[BoxStage, ...]
    masks: MaskOutputs | None
