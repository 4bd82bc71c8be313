"""How a service behaves, and what it refuses."""

import dataclasses
from typing import Literal

MaskForm = Literal["none", "crop", "rle", "polygon"]
MEBIBYTE = 1 << 20


@dataclasses.dataclass(frozen=True)
class ServiceOptions:
    """Options of a service.

    Attributes:
      name: of the model, in TensorFlow Serving's paths.
      token: that a request must bear; None lets everybody in.
      mask_form: of masks, if a request does not say.
      max_batch: images that go through the model together.
      batch_wait: seconds that an image waits for others to go with, while the model is free.
      max_requests: that arrive, wait or are in work; those beyond are refused at once.
      time_limit: seconds for a request to arrive, again for its answer, and again for that to be
        taken.
      max_bytes: of an encoded image.
      max_pixels: of an image.
      max_boxes: of a request for masks.
    """

    name: str
    token: str | None = None
    mask_form: MaskForm = "crop"
    max_batch: int = 4
    batch_wait: float = 0.004
    max_requests: int = 32
    time_limit: float = 30.0
    max_bytes: int = 20 * MEBIBYTE
    max_pixels: int = 50_000_000
    max_boxes: int = 100

    @property
    def max_body(self) -> int:
        """Bytes of a request: an image in base64, and what stands around it."""
        return self.max_bytes * 4 // 3 + 64 * 1024
