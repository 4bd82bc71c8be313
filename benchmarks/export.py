"""Every format of an export beside the checkpoint: size, latency, AP.

    python benchmarks/export.py --model runs/nuts

The formats take turns image by image, each in a process of its own that has not this package. It
needs the extras onnx and stablehlo, and a training of configs/nuts.yaml or another one with its
annotations. Writes export.csv beside, and the table in docs/export.md.
"""

import argparse
import os
import tempfile

from support.sides import report

_NUTS = "../shared/data/nuts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="model_dir of a training")
    parser.add_argument("--annotations", default=f"{_NUTS}/instances_val.json", help="a COCO file")
    parser.add_argument("--image_dir", default=f"{_NUTS}/images", help="of its images")
    arguments = parser.parse_args()
    if arguments.model is None:  # among all benchmarks
        print("left out: it needs a trained model, see --help")
        return

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from official_maskrcnn.inference.export import table
    from official_maskrcnn.inference.export.check import check_export
    from official_maskrcnn.inference.export.exporter import export_model
    from official_maskrcnn.inference.formats import FORMATS

    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "export")
        export_model(arguments.model, output, tuple(FORMATS))
        checked, _ = check_export(
            arguments.model, output, arguments.annotations, arguments.image_dir
        )
    report(__file__, table.HEADER, table.rows(checked))


if __name__ == "__main__":
    main()
