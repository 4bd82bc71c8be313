"""The registered experiments: complete configurations to start from."""

from collections.abc import Callable

from official_maskrcnn.configs.experiment import ExperimentConfig, RuntimeConfig, TrainerConfig
from official_maskrcnn.configs.model import Anchor, DeepMaskHeadRCNN
from official_maskrcnn.configs.registry import Registry
from official_maskrcnn.configs.task import DataConfig, DeepMaskHeadRCNNTask, Losses, Parser
from official_maskrcnn.model_garden import light_imports

with light_imports():
    from official.modeling import optimization
    from official.vision.configs import backbones, decoders

EXPERIMENTS: Registry[Callable[[], ExperimentConfig]] = Registry("experiment")

_COCO_TRAIN_EXAMPLES = 118287
_COCO_CLASSES = 91  # category ids 1 to 90 with gaps, and the background


def _step_schedule(
    values: list[float], boundaries: list[int], warmup_steps: int
) -> optimization.OptimizationConfig:
    return optimization.OptimizationConfig(
        {
            "optimizer": {"type": "sgd", "sgd": {"momentum": 0.9}},
            "learning_rate": {
                "type": "stepwise",
                "stepwise": {"boundaries": boundaries, "values": values},
            },
            "warmup": {
                "type": "linear",
                "linear": {"warmup_steps": warmup_steps, "warmup_learning_rate": 0.0067},
            },
        }
    )


def _coco_data(
    train_batch: int, eval_batch: int, scale_min: float, scale_max: float
) -> dict[str, DataConfig]:
    return {
        "train_data": DataConfig(
            input_path="coco/train*",
            is_training=True,
            global_batch_size=train_batch,
            parser=Parser(aug_rand_hflip=True, aug_scale_min=scale_min, aug_scale_max=scale_max),
        ),
        "validation_data": DataConfig(
            input_path="coco/val*",
            is_training=False,
            global_batch_size=eval_batch,
            drop_remainder=False,
        ),
    }


@EXPERIMENTS.register("deep_mask_head_rcnn_resnetfpn_coco")
def deep_mask_head_rcnn_resnetfpn_coco() -> ExperimentConfig:
    """Mask R-CNN with a ResNet-50 FPN on COCO, 1024x1024, from ImageNet weights."""
    steps_per_epoch = _COCO_TRAIN_EXAMPLES // 64
    return ExperimentConfig(
        runtime=RuntimeConfig(mixed_precision_dtype="bfloat16"),
        task=DeepMaskHeadRCNNTask(
            init_checkpoint=("gs://cloud-tpu-checkpoints/vision-2.0/resnet50_imagenet/ckpt-28080"),
            init_checkpoint_modules="backbone",
            annotation_file="coco/instances_val2017.json",
            model=DeepMaskHeadRCNN(num_classes=_COCO_CLASSES, input_size=[1024, 1024, 3]),
            losses=Losses(l2_weight_decay=4e-5),
            **_coco_data(64, 8, 0.8, 1.25),
        ),
        trainer=TrainerConfig(
            train_steps=22500,
            validation_interval=steps_per_epoch,
            steps_per_loop=steps_per_epoch,
            summary_interval=steps_per_epoch,
            checkpoint_interval=steps_per_epoch,
            optimizer_config=_step_schedule([0.12, 0.012, 0.0012], [15000, 20000], 500),
        ),
    )


@EXPERIMENTS.register("deep_mask_head_rcnn_spinenet_coco")
def deep_mask_head_rcnn_spinenet_coco() -> ExperimentConfig:
    """Mask R-CNN with SpineNet-49 on COCO, 640x640, 350 epochs from random weights."""
    steps_per_epoch = 463
    experiment = ExperimentConfig(
        runtime=RuntimeConfig(mixed_precision_dtype="bfloat16"),
        task=DeepMaskHeadRCNNTask(
            annotation_file="coco/instances_val2017.json",
            model=DeepMaskHeadRCNN(
                backbone=backbones.Backbone(
                    type="spinenet",
                    spinenet=backbones.SpineNet(model_id="49", min_level=3, max_level=7),
                ),
                decoder=decoders.Decoder(type="identity", identity=decoders.Identity()),
                anchor=Anchor(anchor_size=3.0),
                num_classes=_COCO_CLASSES,
                input_size=[640, 640, 3],
                min_level=3,
                max_level=7,
            ),
            losses=Losses(l2_weight_decay=4e-5),
            **_coco_data(256, 8, 0.5, 2.0),
        ),
        trainer=TrainerConfig(
            train_steps=steps_per_epoch * 350,
            validation_interval=steps_per_epoch,
            steps_per_loop=steps_per_epoch,
            summary_interval=steps_per_epoch,
            checkpoint_interval=steps_per_epoch,
            optimizer_config=_step_schedule(
                [0.32, 0.032, 0.0032], [steps_per_epoch * 320, steps_per_epoch * 340], 2000
            ),
        ),
    )
    norm = experiment.task.model.norm_activation
    norm.norm_momentum, norm.norm_epsilon = 0.99, 0.001
    return experiment
