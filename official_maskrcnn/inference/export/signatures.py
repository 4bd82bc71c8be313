"""The graphs of a model as the signatures of a SavedModel, named as Model Garden's exporter does.

Comments use: b images, d slots for detections, n boxes, s the side of a mask.
"""

from collections.abc import Callable

import tensorflow as tf

from official_maskrcnn.configs.model import DeepMaskHeadRCNN
from official_maskrcnn.inference.graphs import InferenceGraphs
from official_maskrcnn.ops import masks as mask_ops

Outputs = dict[str, tf.Tensor]
Signatures = dict[str, tf.types.experimental.ConcreteFunction]


def serving_signatures(
    graphs: InferenceGraphs, config: DeepMaskHeadRCNN, paste_masks: bool = False
) -> Signatures:
    """Signatures for any number of images.

    - serving_default: `inputs` uint8 [b, h, w, 3], RGB, of any size.
    - image_bytes: `inputs` string [b], content of JPEG, PNG, BMP or GIF files of any sizes.
    - tf_example: `inputs` string [b], serialized tf.train.Example with image/encoded.
    - image_and_boxes_tensor, for models with masks: `images` as above, `boxes` float32 [b, n, 4]
      (ymin, xmin, ymax, xmax) in pixels of the images, and `classes` int32 [b, n] if the mask head
      has a mask for each class. Boxes without area in the image, such as padding, get zeros.

    They give what `MaskRCNN.call` gives, the last one `detection_masks` [b, n, s, s] and
    `detection_outer_boxes` [b, n, 4], which these are relative to.

    Args:
      graphs: of the model.
      config: of the model.
      paste_masks: give `detection_masks` as uint8 [b, d, h, w] of the images' size, of 0 and 1; the
        images of a batch must have one size then.
    """
    builder = _Builder(graphs, config, paste_masks)
    text = tf.TensorSpec([None], tf.string, name="inputs")
    images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="inputs")
    signatures = {
        "serving_default": builder.detection(images, lambda image: image),
        "image_bytes": builder.detection(text, _decode),
        "tf_example": builder.detection(text, _decode_example),
    }
    if config.include_mask:
        signatures["image_and_boxes_tensor"] = builder.segmentation()
    return signatures


class _Builder:
    def __init__(self, graphs: InferenceGraphs, config: DeepMaskHeadRCNN, paste_masks: bool):
        self._graphs, self._config, self._paste_masks = graphs, config, paste_masks

    def detection(
        self, spec: tf.TensorSpec, read: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.types.experimental.ConcreteFunction:
        def detect(inputs: tf.Tensor) -> Outputs:
            images, info = self._prepare(inputs, read)
            outputs = dict(self._graphs.detect(images, info))
            if self._paste_masks:
                boxes = outputs.pop("detection_outer_boxes", outputs["detection_boxes"])
                masks = outputs["detection_masks"]  # [b, d, s, s]
                b, d, side = tf.shape(masks)[0], masks.shape[1], masks.shape[2]
                pasted = _paste(
                    tf.reshape(masks, [-1, side, side]), tf.reshape(boxes, [-1, 4]), info
                )
                outputs["detection_masks"] = _unflatten(pasted, b, d)
            return outputs

        return tf.function(detect, autograph=False).get_concrete_function(spec)

    def segmentation(self) -> tf.types.experimental.ConcreteFunction:
        def segment(
            images: tf.Tensor, boxes: tf.Tensor, classes: tf.Tensor | None = None
        ) -> Outputs:
            inputs, info = self._prepare(images, lambda image: image)
            b, n = tf.unstack(tf.shape(boxes)[:2])
            if classes is None:
                classes = tf.zeros([b, n], tf.int32)
            else:
                classes = self._check_classes(classes, boxes)
            # TensorFlow's kernels do not survive a mask head without any box.
            missing = [[0, tf.maximum(1 - b * n, 0)]]
            masks, outer = self._graphs.segment(
                inputs,
                info,
                tf.pad(tf.reshape(boxes, [-1, 4]), [*missing, [0, 0]]),
                tf.pad(tf.repeat(tf.range(b), n), missing),
                tf.pad(tf.reshape(classes, [-1]), missing),
            )
            area = tf.reduce_prod(outer[:, 2:] - outer[:, :2], axis=-1)
            masks = tf.where((area > 0.0)[:, None, None], masks, 0.0)
            if self._paste_masks:
                masks = _paste(masks, outer, info)
            outputs = {"detection_masks": _unflatten(masks[: b * n], b, n)}
            if not self._paste_masks:
                outputs["detection_outer_boxes"] = _unflatten(outer[: b * n], b, n)
            return outputs

        specs = {
            "images": tf.TensorSpec([None, None, None, 3], tf.uint8, name="images"),
            "boxes": tf.TensorSpec([None, None, 4], tf.float32, name="boxes"),
        }
        if not self._config.mask_head.class_agnostic:
            specs["classes"] = tf.TensorSpec([None, None], tf.int32, name="classes")
        return tf.function(segment, autograph=False).get_concrete_function(**specs)

    def _prepare(
        self, inputs: tf.Tensor, read: Callable[[tf.Tensor], tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Network inputs [b, height, width, 3] and image_info [b, 4, 2]."""
        specs = self._graphs.detect.input_signature
        check = tf.debugging.Assert(tf.size(inputs) > 0, ["no image, or one without pixels"])
        with tf.control_dependencies([check]):
            inputs = tf.identity(inputs)
        return tf.map_fn(
            lambda one: self._graphs.prepare(read(one)),
            inputs,
            fn_output_signature=tuple(tf.TensorSpec(spec.shape[1:], spec.dtype) for spec in specs),
        )

    def _check_classes(self, classes: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
        last = self._config.num_classes - 1
        known = (classes > 0) & (classes <= last)
        is_padding = tf.reduce_all(boxes == 0.0, axis=-1)
        check = tf.debugging.Assert(
            tf.reduce_all(known | is_padding),
            [f"the mask head has a mask for each class: classes must be from 1 to {last}", classes],
        )
        with tf.control_dependencies([check]):
            return tf.identity(classes)


def _decode(encoded: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def _decode_example(serialized: tf.Tensor) -> tf.Tensor:
    features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
    return _decode(tf.io.parse_single_example(serialized, features)["image/encoded"])


def _paste(masks: tf.Tensor, boxes: tf.Tensor, image_info: tf.Tensor) -> tf.Tensor:
    """Crops [m, s, s] of boxes [m, 4] as masks uint8 [m, h, w]; image_info is [b, 4, 2]."""
    sizes = tf.cast(image_info[:, 0], tf.int32)  # [b, 2]
    check = tf.debugging.assert_equal(
        sizes, sizes[:1], "with pasted masks, the images of a batch must have one size"
    )
    with tf.control_dependencies([check]):
        return mask_ops.paste_masks(masks, boxes, tf.reduce_max(sizes, axis=0))


def _unflatten(values: tf.Tensor, b: tf.Tensor, n: tf.Tensor | int) -> tf.Tensor:
    """[b, n, ...] of values [b * n, ...]."""
    return tf.reshape(values, tf.concat([[b, n], tf.shape(values)[1:]], axis=0))
