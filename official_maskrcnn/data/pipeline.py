"""Records, or a folder of images with COCO annotations -> batches."""

import tensorflow as tf
from absl import logging

from official_maskrcnn.configs.task import DataConfig
from official_maskrcnn.data import cache, parser, reader, records
from official_maskrcnn.data.faulty_examples import FaultyExamples
from official_maskrcnn.errors import UserError


def build_dataset(
    config: DataConfig,
    input_size: tuple[int, int],
    include_mask: bool,
    input_context: tf.distribute.InputContext | None = None,
    seed: int = 0,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Batches for training (endless) or evaluation (each image once).

    Elements are flat dicts of batched tensors; b is the batch size per replica, n is
    parser.max_num_instances, s is parser.mask_crop_size:

      image       [b, height, width, 3] of config.dtype, normalised; 0 beyond the image
      image_info  [b, 4, 2] float32, y before x: size of the original image, input_size, scale,
                  offset, so that input pixels = original pixels * scale - offset
      source_id   [b] int64; -1 for an example that only fills the last evaluation batch
      boxes       [b, n, 4] float32, (ymin, xmin, ymax, xmax) in pixels of the network input,
                  clipped to it; padded with -1
      classes     [b, n] int32; padded with -1
      num_truncated [b] int32, instances beyond n that were left out
      masks       [b, n, s, s] uint8 in {0, 1}, relative to the box (with include_mask)
      mask_valid  [b, n] bool, whether the instance has a mask (with include_mask)

    All shapes are static. Crowds are left out of evaluation, and of training as configured.

    Training batches are a function of the seed and the step alone: order, augmentation and what
    stands in for a damaged example are the same after a restart, and the same global batch is
    shared out however many input pipelines there are.

    Args:
      config: source, batch size, augmentation. An evaluation ignores shuffle_buffer_size and
        drop_remainder: all of its images count.
      input_size: height and width of the network input.
      include_mask: whether the batches have masks; without, none is decoded.
      input_context: of a distribution strategy; gives the share of the global batch.
      seed: of order and augmentation, where `config.seed` is None.
      first_step: of the training, to begin at.

    Raises:
      UserError: without exactly one source, with a batch size that cannot be divided between the
        replicas, or without examples. While batches are made: tf.errors.OpError with DATA_FAULT
        when more examples are damaged than `config.max_faulty_examples`.
    """
    batch_size = _batch_size_per_replica(config.global_batch_size, input_context)
    index = reader.build_index(source_files(config), config)
    if not len(index):
        raise UserError(f"no examples in {config.input_path or config.annotation_file}")
    empty = "left out" if config.skip_empty_images else "kept"
    logging.info(
        "%d examples in %d files; images without instances are %s.",
        *(len(index), len(index.paths), empty),
    )
    read = reader.example_reader(index, config.cache)
    seed = seed if config.seed is None else config.seed

    def parse(place: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
        return parser.parse_example(
            read(number), tf.stack([seed, place]), config, input_size, include_mask
        )

    def pad(*_: tf.Tensor) -> dict[str, tf.Tensor]:
        return parser.padding_example(config, input_size, include_mask)

    if config.is_training:
        first = first_step * config.global_batch_size
        order = reader.training_order(len(index), config, seed, first)
    else:
        order = reader.evaluation_order(len(index), config.global_batch_size)
    order = reader.own_share(order, config.global_batch_size, input_context)
    faults = FaultyExamples(index, config)
    dataset = reader.map_in_parallel(
        order, lambda place, number: faults.element(place, number, parse, pad)
    )
    dataset = dataset.batch(batch_size, drop_remainder=True)  # there is none: padded or endless
    if config.deterministic is not None:
        options = tf.data.Options()
        options.deterministic = config.deterministic
        dataset = dataset.with_options(options)
    return dataset.prefetch(config.prefetch_buffer_size or tf.data.AUTOTUNE)


def count_examples(config: DataConfig) -> int:
    """Number of examples in one pass over a config's source.

    Raises:
      UserError: as `source_files`, or a file is damaged.
    """
    return len(reader.build_index(source_files(config), config))


def source_files(config: DataConfig) -> list[str]:
    """Record files of a config's source; made first where it is a folder of images.

    Raises:
      UserError: unless there is exactly one source, or when it has no files.
    """
    from_images = bool(config.image_dir or config.annotation_file)
    if bool(config.input_path) == from_images:
        given = "both" if from_images else "neither"
        raise UserError(
            f"{given} of input_path and image_dir given: set either input_path, or image_dir "
            "and annotation_file"
        )
    if not from_images:
        return records.expand_patterns(config.input_path)
    if not (config.image_dir and config.annotation_file):
        missing = "annotation_file" if config.image_dir else "image_dir"
        raise UserError(f"image_dir and annotation_file belong together: {missing} is not set")
    return cache.ensure_records(config.image_dir, config.annotation_file, config.cache_dir)


def _batch_size_per_replica(
    global_batch_size: int, context: tf.distribute.InputContext | None
) -> int:
    replicas = context.num_replicas_in_sync if context else 1
    if global_batch_size < 1 or global_batch_size % replicas:
        raise UserError(
            f"global_batch_size ({global_batch_size}) must be a positive multiple of the number "
            f"of replicas ({replicas})"
        )
    return global_batch_size // replicas
