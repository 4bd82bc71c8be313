"""Data: COCO in, TFRecord in and out, parsing and augmentation."""
