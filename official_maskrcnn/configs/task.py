"""Configuration of the task: data, losses, initial weights, which classes have masks."""

import dataclasses

from official_maskrcnn.configs import model as model_config
from official_maskrcnn.model_garden import light_imports

with light_imports():
    from official.modeling import hyperparams


@dataclasses.dataclass
class Parser(hyperparams.Config):
    """Augmentation, and how anchors are labelled."""

    aug_rand_hflip: bool = False
    aug_rand_vflip: bool = False
    aug_scale_min: float = 1.0
    aug_scale_max: float = 1.0
    skip_crowd_during_training: bool = True
    max_num_instances: int = 100
    mask_crop_size: int = 112  # side of the stored mask target, relative to its box
    rpn_match_threshold: float = 0.7
    rpn_unmatched_threshold: float = 0.3
    rpn_batch_size_per_im: int = 256
    rpn_fg_fraction: float = 0.5


@dataclasses.dataclass
class TfExampleDecoder(hyperparams.Config):
    regenerate_source_id: bool = False  # hash the image instead of trusting image/source_id
    mask_binarize_threshold: float | None = None


@dataclasses.dataclass
class DataDecoder(hyperparams.OneOfConfig):
    type: str | None = "simple_decoder"
    simple_decoder: TfExampleDecoder = dataclasses.field(default_factory=TfExampleDecoder)


@dataclasses.dataclass
class DataConfig(hyperparams.Config):
    """Where examples come from: either `input_path`, or `image_dir` and `annotation_file`."""

    input_path: str | list[str] = ""  # file patterns of TFRecords, comma-separated or a list
    image_dir: str = ""  # ours: a folder of images ...
    annotation_file: str = ""  # ... and its COCO annotations; records are made once and cached
    cache_dir: str = ""  # where those records go; default ~/.cache/official_maskrcnn
    is_training: bool = False
    global_batch_size: int = 0
    dtype: str = "bfloat16"
    parser: Parser = dataclasses.field(default_factory=Parser)
    decoder: DataDecoder = dataclasses.field(default_factory=DataDecoder)
    skip_empty_images: bool = False  # ours: leave out images without instances
    max_examples: int | None = None  # ours: only the first so many, to try or to overfit
    max_faulty_examples: int = 0  # ours: damaged ones that are left out before the run stops
    shuffle_buffer_size: int = 10000  # 1: in the order of the files; else each epoch as a whole
    cache: bool = False  # keep the undecoded records in memory
    deterministic: bool | None = None
    seed: int | None = None  # of order and augmentation; None: that of the run
    prefetch_buffer_size: int | None = None
    # For Model Garden's YAML files only, without effect: training has no last batch, an evaluation
    # counts every image, and examples are read one by one from wherever they are.
    drop_remainder: bool = True
    cycle_length: int | None = None
    block_length: int = 1
    sharding: bool = True


@dataclasses.dataclass
class Losses(hyperparams.Config):
    loss_weight: float = 1.0
    rpn_huber_loss_delta: float = 1.0 / 9.0
    frcnn_huber_loss_delta: float = 1.0
    frcnn_class_use_binary_cross_entropy: bool = False
    frcnn_class_loss_top_k_percent: float = 1.0
    l2_weight_decay: float = 0.0
    rpn_score_weight: float = 1.0
    rpn_box_weight: float = 1.0
    frcnn_class_weight: float = 1.0
    frcnn_box_weight: float = 1.0
    mask_weight: float = 1.0
    class_weights: list[float] | None = None


@dataclasses.dataclass
class DeepMaskHeadRCNNTask(hyperparams.Config):
    """Mask R-CNN on COCO-style data, with masks for all or only some of the classes."""

    model: model_config.DeepMaskHeadRCNN = dataclasses.field(
        default_factory=model_config.DeepMaskHeadRCNN
    )
    train_data: DataConfig = dataclasses.field(default_factory=lambda: DataConfig(is_training=True))
    validation_data: DataConfig = dataclasses.field(
        default_factory=lambda: DataConfig(is_training=False, drop_remainder=False)
    )
    losses: Losses = dataclasses.field(default_factory=Losses)
    init_checkpoint: str | None = None
    init_checkpoint_modules: str | list[str] = "all"  # all, or some of backbone and decoder
    freeze_backbone: bool = False
    # Category ids whose masks train the mask head; None: all. Evaluation then reports the mask AP
    # of these (seen) and of the others (unseen).
    allowed_mask_class_ids: list[int] | None = None
    annotation_file: str | None = None  # ground truth of the evaluation; None: from the records
    per_category_metrics: bool = False
    validation_losses: bool = False  # ours: the losses too, by a second run of the heads
    coco_eval_backend: str = "faster_coco_eval"  # ours: or pycocotools
    export_results: bool = False  # ours: write detections in COCO's results format
    num_visualized_images: int = 16  # ours: images on the contact sheet of an evaluation
