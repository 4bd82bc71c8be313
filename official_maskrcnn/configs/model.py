"""Configuration of the model: backbone, decoder, RPN, box head and mask head.

Names, places and defaults are Model Garden's (`official.vision.configs.maskrcnn` and
`official.projects.deepmac_maskrcnn`), so that its YAML files and overrides work; fields that are
this project's own say so.
"""

import dataclasses

from official_maskrcnn.model_garden import light_imports

with light_imports():
    from official.modeling import hyperparams
    from official.vision.configs import backbones, common, decoders


@dataclasses.dataclass
class Anchor(hyperparams.Config):
    """Anchors of one level: `num_scales` octave steps times the aspect ratios (width / height)."""

    num_scales: int = 1
    aspect_ratios: list[float] = dataclasses.field(default_factory=lambda: [0.5, 1.0, 2.0])
    anchor_size: float = 8.0  # side of the smallest anchor, in strides of its level


@dataclasses.dataclass
class RPNHead(hyperparams.Config):
    num_convs: int = 1
    num_filters: int = 256
    use_separable_conv: bool = False


@dataclasses.dataclass
class DetectionHead(hyperparams.Config):
    num_convs: int = 4
    num_filters: int = 256
    use_separable_conv: bool = False
    num_fcs: int = 1
    fc_dims: int = 1024
    class_agnostic_bbox_pred: bool = False  # one box per RoI; needed by cascades
    cascade_class_ensemble: bool = False  # average the class scores of all cascade stages


@dataclasses.dataclass
class ROIGenerator(hyperparams.Config):
    """Proposals: per level top k, then NMS; over all levels the best `num_proposals`."""

    pre_nms_top_k: int = 2000
    pre_nms_score_threshold: float = 0.0
    pre_nms_min_size_threshold: float = 0.0
    nms_iou_threshold: float = 0.7
    num_proposals: int = 1000
    test_pre_nms_top_k: int = 1000
    test_pre_nms_score_threshold: float = 0.0
    test_pre_nms_min_size_threshold: float = 0.0
    test_nms_iou_threshold: float = 0.7
    test_num_proposals: int = 1000


@dataclasses.dataclass
class ROISampler(hyperparams.Config):
    mix_gt_boxes: bool = True
    num_sampled_rois: int = 512
    foreground_fraction: float = 0.25
    foreground_iou_threshold: float = 0.5
    background_iou_high_threshold: float = 0.5
    background_iou_low_threshold: float = 0.0
    # One IoU threshold for each box head after the first: Cascade R-CNN (arXiv 1712.00726).
    cascade_iou_thresholds: list[float] | None = None


@dataclasses.dataclass
class ROIAligner(hyperparams.Config):
    crop_size: int = 7
    # Ours: sampling points along each side of a bin. Model Garden's compatibility fixes it at 1.
    sampling_ratio: int = 2


@dataclasses.dataclass
class MaskROIAligner(ROIAligner):
    crop_size: int = 14


@dataclasses.dataclass
class DetectionGenerator(hyperparams.Config):
    pre_nms_top_k: int = 5000  # candidate (box, class) pairs of an image; all on a CPU or GPU
    pre_nms_score_threshold: float = 0.05
    nms_iou_threshold: float = 0.5
    max_num_detections: int = 100
    soft_nms_sigma: float | None = None  # Soft-NMS (arXiv 1704.04503)
    use_sigmoid_probability: bool = False


@dataclasses.dataclass
class DeepMaskHead(hyperparams.Config):
    """Mask head. `convnet_variant` names an entry of the mask head registry."""

    convnet_variant: str = "default"
    upsample_factor: int = 2
    num_convs: int = 4  # of the default head
    num_filters: int = 256
    use_separable_conv: bool = False
    class_agnostic: bool = False


@dataclasses.dataclass
class MaskSampler(hyperparams.Config):
    num_sampled_masks: int = 128  # foreground RoIs an image, when training on proposals
    # Ours: RoIs an image that the mask head has room for where shapes are static (TPU, XLA), pooled
    # over the images of a replica; what overflows is counted in `mask_rois_dropped`. None: 24, but
    # at least 48 in all, when training on ground-truth boxes, else num_sampled_masks. Elsewhere
    # the head runs on as many RoIs as there are.
    static_rois_per_image: int | None = None


@dataclasses.dataclass
class NormActivation(common.NormActivation):
    """Batch norm (momentum in Keras' sense) and activation of every part."""

    activation: str = "relu"
    use_sync_bn: bool = True
    norm_momentum: float = 0.997
    norm_epsilon: float = 0.0001
    frozen: bool = False  # ours: statistics, scale and offset stay as they were initialised


@dataclasses.dataclass
class DeepMaskHeadRCNN(hyperparams.Config):
    """Mask R-CNN (arXiv 1703.06870) with deep mask heads (arXiv 2104.00613)."""

    num_classes: int = 0  # largest category id + 1; class 0 is the background
    input_size: list[int] = dataclasses.field(default_factory=list)  # height, width, channels
    min_level: int = 2
    max_level: int = 6
    anchor: Anchor = dataclasses.field(default_factory=Anchor)
    include_mask: bool = True
    use_gt_boxes_for_masks: bool = False
    outer_boxes_scale: float = 1.0  # RoIs of the mask head are this much larger than the boxes
    backbone: backbones.Backbone = dataclasses.field(
        default_factory=lambda: backbones.Backbone(type="resnet", resnet=backbones.ResNet())
    )
    decoder: decoders.Decoder = dataclasses.field(
        default_factory=lambda: decoders.Decoder(type="fpn", fpn=decoders.FPN())
    )
    rpn_head: RPNHead = dataclasses.field(default_factory=RPNHead)
    detection_head: DetectionHead = dataclasses.field(default_factory=DetectionHead)
    roi_generator: ROIGenerator = dataclasses.field(default_factory=ROIGenerator)
    roi_sampler: ROISampler = dataclasses.field(default_factory=ROISampler)
    roi_aligner: ROIAligner = dataclasses.field(default_factory=ROIAligner)
    detection_generator: DetectionGenerator = dataclasses.field(default_factory=DetectionGenerator)
    mask_head: DeepMaskHead = dataclasses.field(default_factory=DeepMaskHead)
    mask_sampler: MaskSampler = dataclasses.field(default_factory=MaskSampler)
    mask_roi_aligner: MaskROIAligner = dataclasses.field(default_factory=MaskROIAligner)
    norm_activation: NormActivation = dataclasses.field(default_factory=NormActivation)
    # Ours: the residual blocks of a ResNet or SpineNet are computed again for the backward pass, so
    # that only their inputs stay in memory until then (see `tpu-check` and `analyze`).
    rematerialize: bool = False
    # Ours: "model_garden" restores the numerics of tf-models-official where ours differ on
    # purpose (RoIAlign, batch norm of the hourglass), for weights that were trained with it.
    compatibility: str = "none"
