"""What to tell a user whose configuration has one of Model Garden's fields that is not offered."""

import re

_LEAVE_OUT = "; leave it out"
_NOT_OFFERED = "is Model Garden's and not offered here" + _LEAVE_OUT
_HINTS = (
    (
        r"task\.model\.detection_generator\.(apply_nms|nms_version|use_cpu_nms)"
        r"|task\.model\.roi_generator\.use_batched_nms",
        "one NMS serves every device" + _LEAVE_OUT,
    ),
    (r"task\.model\.(mask_)?roi_aligner\.sample_offset", "replaced by sampling_ratio beside it"),
    (
        r"task\.\w+_data\.tfds_\w+",
        "TensorFlow Datasets is not read; give TFRecords as input_path, or image_dir and "
        "annotation_file",
    ),
    (r"task\.\w+_data\.file_type", "records are TFRecords" + _LEAVE_OUT),
    (r"task\.\w+_data\.num_examples", "examples are counted" + _LEAVE_OUT),
    (
        r"task\.\w+_data\.(weights|ram_budget|trainer_id|autotune_algorithm)"
        r"|task\.\w+_data\.\w*tf_data_service\w*"
        r"|task\.\w+_data\.decoder\.(label_map_decoder|simple_decoder\.attribute_names)"
        r"|task\.\w+_data\.parser\.aug_type"
        r"|task\.(name|differential_privacy_config)"
        r"|trainer\.(allow_tpu_summary|preemption_on_demand_checkpoint)"
        r"|runtime\.(gpu_thread_mode|per_gpu_thread_count|dataset_num_private_threads)"
        r"|runtime\.(batchnorm_spatial_persistent|tpu_enable_xla_dynamic_padder)"
        r"|runtime\.(num_cores_per_replica|default_shard_dim|use_tpu_mp_strategy)",
        _NOT_OFFERED,
    ),
    (
        r"task\.\w+_data\.parser\.(num_channels|(un)?match(ed)?_threshold|pad|keep_aspect_ratio)",
        "has no effect on Mask R-CNN in Model Garden either" + _LEAVE_OUT,
    ),
    (
        r"task\.use_(coco|wod|approx_instance)_metrics",
        "COCO's metrics are always computed" + _LEAVE_OUT,
    ),
    (r"task\.allow_image_summary", "replaced by task.num_visualized_images"),
    (
        r"trainer\.(train|eval)_tf_(while_loop|function)",
        "steps always run as a tf.function (runtime.run_eagerly for debugging)" + _LEAVE_OUT,
    ),
    (
        r"trainer\.(loss_upper_bound|recovery_begin_steps|recovery_max_trials)",
        "a loss that is not finite stops the run" + _LEAVE_OUT,
    ),
)


def model_garden_hint(path: str) -> str | None:
    """What stands in for Model Garden's field at a dotted path; None if it has no such field."""
    for pattern, hint in _HINTS:
        if re.fullmatch(pattern, path):
            return hint
    return None
