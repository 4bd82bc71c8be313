"""torchvision's Mask R-CNN R50-FPN, with random weights, as a side of torchvision_peer.py.

Run by the Python of an environment that has torch and torchvision, and needs nothing else.
"""

import json
import sys

import numpy as np
import torch
from scenes import random_batch
from serve import serve
from torchvision.models import resnet50
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.misc import FrozenBatchNorm2d

_THRESHOLD = 0.5


def _build(height: int, width: int) -> MaskRCNN:
    """The model that `maskrcnn_resnet50_fpn` builds, all stages trained."""
    trunk = _resnet_fpn_extractor(resnet50(norm_layer=FrozenBatchNorm2d), trainable_layers=5)
    return MaskRCNN(trunk, 91, min_size=min(height, width), max_size=max(height, width))


def _calibrate(model: MaskRCNN, images: torch.Tensor) -> None:
    """Gives frozen batch norm the statistics of its input, as trained weights would have them."""

    def measure(layer: FrozenBatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance + 1e-3)

    layers = [layer for layer in model.modules() if isinstance(layer, FrozenBatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(measure) for layer in layers]
    with torch.no_grad():
        model.backbone(model.transform(list(images))[0].tensors)
    for hook in hooks:
        hook.remove()


def _serve_training(height: int, width: int, batch_size: int, extra_boxes: list) -> None:
    batch = random_batch(height, width, batch_size, instances=7)
    images = torch.tensor(batch["image"]).permute(0, 3, 1, 2).contiguous()
    targets = []
    for boxes, classes in zip(batch["boxes"], batch["classes"], strict=True):
        boxes = boxes[classes > 0]
        masks = np.zeros((len(boxes), height, width), "u1")
        for mask, (y1, x1, y2, x2) in zip(masks, boxes.astype(int), strict=True):
            mask[y1:y2, x1:x2] = 1
        corners = torch.tensor(boxes[:, [1, 0, 3, 2]])
        labels = torch.tensor(classes[classes > 0].astype("i8"))
        targets.append({"boxes": corners, "labels": labels, "masks": torch.tensor(masks)})
    model = _build(height, width).train()
    _calibrate(model, images)

    extra = torch.tensor(extra_boxes)[..., [1, 0, 3, 2]]
    propose = model.rpn.forward

    def propose_more(*inputs: object) -> tuple:
        proposals, losses = propose(*inputs)
        return [torch.cat([p, more]) for p, more in zip(proposals, extra, strict=True)], losses

    model.rpn.forward = propose_more
    counts = {}
    model.roi_heads.mask_head.register_forward_pre_hook(
        lambda _, inputs: counts.update(mask_rois=len(inputs[0]))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def step() -> dict[str, float]:
        optimizer.zero_grad(set_to_none=True)
        loss = sum(model(list(images), targets).values())
        loss.backward()
        optimizer.step()
        return {"loss": float(loss.detach()), **counts}

    serve(step)


def _serve_inference(height: int, width: int, candidates: int) -> None:
    batch = random_batch(height, width, 1, instances=7)
    images = torch.tensor(batch["image"]).permute(0, 3, 1, 2).contiguous()
    model = _build(height, width).eval()
    _calibrate(model, images)

    logits: list[torch.Tensor] = []
    hook = model.roi_heads.box_predictor.register_forward_hook(
        lambda _, __, outputs: logits.append(outputs[0])
    )
    with torch.inference_mode():
        model.roi_heads.score_thresh = 2.0  # none
        model(list(images))
    hook.remove()
    scores = logits[0].softmax(-1)[:, 1:].flatten()
    model.roi_heads.score_thresh = float(scores.sort(descending=True).values[candidates])

    def infer() -> dict[str, float]:
        with torch.inference_mode():
            found = model(list(images))[0]
            masks = (found["masks"][:, 0] >= _THRESHOLD).numpy()
        assert masks.shape[1:] == (height, width)
        return {"detections": len(masks)}

    serve(infer)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(0)
    {"training": _serve_training, "inference": _serve_inference}[sys.argv[2]](
        **json.loads(sys.argv[3])
    )
