"""Batches of random images and instances, the same for both sides of a comparison."""

import numpy as np

Batch = dict[str, np.ndarray]


def random_batch(
    height: int, width: int, batch_size: int, instances: int, slots: int = 100
) -> Batch:
    """A batch as `official_maskrcnn.data.pipeline` gives it.

    Args:
      height: of the images, in pixels.
      width: likewise.
      batch_size: number of images.
      instances: real instances of each image.
      slots: instances with padding.
    """
    rng = np.random.default_rng(0)
    size = np.array([height, width])
    boxes = np.full((batch_size, slots, 4), -1.0, "f")
    starts = rng.uniform(0, 0.6, (batch_size, instances, 2))
    ends = starts + rng.uniform(0.1, 0.4, (batch_size, instances, 2))
    boxes[:, :instances] = np.concatenate([starts * size, ends * size], axis=-1)
    classes = np.full((batch_size, slots), -1, "i4")
    classes[:, :instances] = rng.integers(1, 91, (batch_size, instances))
    info = np.array([size, size, [1, 1], [0, 0]], "f")
    return {
        "image": rng.normal(size=(batch_size, height, width, 3)).astype("f"),
        "image_info": np.tile(info, (batch_size, 1, 1)),
        "source_id": np.arange(batch_size, dtype="i8"),
        "boxes": boxes,
        "classes": classes,
        "masks": rng.integers(0, 2, (batch_size, slots, 112, 112), dtype="u1"),
        "mask_valid": classes > 0,
        "num_truncated": np.zeros([batch_size], "i4"),
    }
