"""Configuration of a run: runtime, trainer, and the experiment that holds all three parts."""

import dataclasses

from official_maskrcnn.configs import task as task_config
from official_maskrcnn.model_garden import light_imports

with light_imports():
    from official.modeling import hyperparams, optimization


@dataclasses.dataclass
class RuntimeConfig(hyperparams.Config):
    """Devices and precision."""

    distribution_strategy: str = "mirrored"  # one_device, mirrored, multi_worker_mirrored, tpu
    num_gpus: int | None = None  # None: all there are; on a machine without, the CPU
    tpu: str | None = None  # name or address of the TPU
    worker_hosts: str | None = None  # host:port, comma-separated; else TF_CONFIG or cluster
    task_index: int = -1
    cluster: str | None = None  # ours: slurm, whose variables then name the workers
    all_reduce_alg: str | None = None
    num_packs: int = 1
    enable_xla: bool = False  # compile the steps with XLA: static shapes throughout
    # None or float32, bfloat16, float16, or auto: bfloat16 where the device is made for it.
    mixed_precision_dtype: str | None = None
    loss_scale: str | float | None = None  # of float16; None or "dynamic"
    run_eagerly: bool = False
    deterministic: bool = False  # ours: the same bits in every run, which is slower
    seed: int | None = None  # ours; None: weights at random, data order and sampling as of 0


@dataclasses.dataclass
class TrainerConfig(hyperparams.Config):
    """Durations and intervals, in training steps unless the name says otherwise."""

    optimizer_config: optimization.OptimizationConfig = dataclasses.field(
        default_factory=optimization.OptimizationConfig
    )
    train_steps: int = 0
    train_epochs: float | None = None  # ours: in place of train_steps
    boundary_epochs: list[float] | None = None  # ours: in place of the learning rate's boundaries
    # Ours: the global batch size that the learning rates are meant for; they are scaled by that of
    # the training data over it. None: they are used as they stand.
    learning_rate_batch_size: int | None = None
    steps_per_loop: int = 1000  # steps on the device between two looks of the host
    summary_interval: int = 1000
    checkpoint_interval: int = 1000
    max_to_keep: int = 5
    validation_interval: int = 1000
    validation_steps: int = -1  # batches; -1: all of the validation data
    validation_summary_subdir: str = "validation"
    # Ours: steps at which training diverged that are left out before the training stops.
    max_skipped_steps: int = 0
    early_stopping_patience: int | None = None  # ours: evaluations that bring nothing better
    continuous_eval_timeout: int = 3600  # seconds without a new checkpoint
    best_checkpoint_export_subdir: str = "best"  # "": none
    best_checkpoint_eval_metric: str = ""  # "": mask/AP, or box/AP without masks
    best_checkpoint_metric_comp: str = "higher"  # or lower


@dataclasses.dataclass
class ExperimentConfig(hyperparams.Config):
    """All that a run depends on; saved as `params.yaml` in its model_dir."""

    task: task_config.DeepMaskHeadRCNNTask = dataclasses.field(
        default_factory=task_config.DeepMaskHeadRCNNTask
    )
    trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    runtime: RuntimeConfig = dataclasses.field(default_factory=RuntimeConfig)
