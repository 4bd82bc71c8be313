"""What the published configurations take on TPUs, by the TPU compiler's own analysis.

    python benchmarks/tpu_table.py [--only PATTERN]

Compiles the training step of each row for one core, ahead of time: no TPU is needed, but the extra
tpu-check. Writes tpu_table.csv beside, and the tables of docs/tpu.md from it. With --only, rows
whose name matches, such as 'r50*', are compiled anew and the others stay as they are.
"""

import argparse
import csv
import fnmatch
import importlib.util
import json
import pathlib
import subprocess
import sys

from support import pages

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_CSV = pathlib.Path(__file__).with_suffix(".csv")
_PAGE = _ROOT / "docs" / "tpu.md"
_FLOAT32 = ("runtime.mixed_precision_dtype=float32", "task.train_data.dtype=float32")
_REMATERIALIZE = "task.model.rematerialize=true"
_GIB = 2**30
_SPINENET_SLICES = ("v2-128", "v3-32", "v3-64", "v3-128", "v4-32", "v5e-128", "v5p-16", "v6e-16")

# Row: what --only is matched with; configuration; slice; changes.
_ROWS = {
    "r50 float32": ("voc_r50", "v3-32", _FLOAT32),
    "r50 hg52 float32": ("voc_r50_hg52", "v3-32", _FLOAT32),
    "r50": ("voc_r50", "v3-32", ()),
    "r50 hg52": ("voc_r50_hg52", "v3-32", ()),
    "r50 hg52 batch 4": ("voc_r50_hg52", "v3-32", ("task.train_data.global_batch_size=128",)),
    "r50 hg52 rematerialized": ("voc_r50_hg52", "v3-32", (_REMATERIALIZE,)),
    "r101 hg52": ("voc_r101_hg52", "v3-32", ()),
    **{
        f"spinenet143 hg52 {topology}": ("voc_spinenet143_hg52", topology, ())
        for topology in _SPINENET_SLICES
    },
    **{
        f"r50 hg52 {generation}": ("voc_r50_hg52", f"{generation}-32", ())
        for generation in ("v4", "v5e", "v5p", "v6e")
    },
}
# tf-models-official 2.20, its training step compiled in the same way: 1024 x 1024, batch of 2 on
# a v3 core. Its hourglasses compile only with their upsampling replaced by repeats.
_REFERENCE = {  # row: TFLOP, GB read and written, GB of temporaries
    "r50 float32": (3.77, 59.8, 6.48),
    "r50 hg52 float32": (5.19, 84.2, 8.27),
    "r50": (3.79, 50.8, 5.93),
    "r50 hg52": (5.21, 63.6, 6.92),
}
_COLUMNS = (
    *("row", "topology", "batch_size", "precision", "flops", "bytes_accessed"),
    *("temporary_bytes", "total_bytes", "available_bytes", "step_seconds", "fits"),
)


def _compile(row: str) -> dict[str, str]:
    config, topology, changes = _ROWS[row]
    backbone = "spinenet" if "spinenet" in config else "resnetfpn"
    command = [
        *(sys.executable, "-m", "official_maskrcnn", "tpu-check"),
        *(f"deep_mask_head_rcnn_{backbone}_coco", "--topology", topology, "--json"),
        *("--config_file", f"configs/deep_mask_head_rcnn_{config}.yaml", *changes),
    ]
    print(" ".join(command[1:]), flush=True)
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        sys.exit(done.returncode)  # the verb has said why
    numbers = {"row": row, **json.loads(done.stdout)}
    return {name: _text(numbers[name]) for name in _COLUMNS}


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _number(text: str, unit: float) -> str:
    return f"{float(text) / unit:.2f}" if text else "-"


def _comparison(rows: dict[str, dict[str, str]]) -> str:
    lines = []
    for name, reference in _REFERENCE.items():
        if name not in rows:
            continue
        measured = rows[name]
        ours = (
            float(measured[key] or "nan") / unit
            for key, unit in (("flops", 1e12), ("bytes_accessed", 1e9), ("temporary_bytes", 1e9))
        )
        cells = (f"{a:.2f} / {b:g} = {a / b:.2f}" for a, b in zip(ours, reference, strict=True))
        lines.append((_ROWS[name][0], measured["precision"], *cells))
    header = ("configuration", "precision", "TFLOP", "GB read and written", "GB of temporaries")
    return pages.table(header, lines)


def _configuration(name: str) -> str:
    config, _, changes = _ROWS[name]
    return f"{config}, {_REMATERIALIZE}" if _REMATERIALIZE in changes else config


def _published(rows: dict[str, dict[str, str]]) -> str:
    lines = []
    for name, row in rows.items():
        lines.append(
            (
                _configuration(name),
                *(row["topology"], row["batch_size"], row["precision"]),
                *(_number(row["flops"], 1e12), _number(row["bytes_accessed"], 1e9)),
                _number(row["temporary_bytes"], _GIB),
                f"{_number(row['total_bytes'], _GIB)} / {_number(row['available_bytes'], _GIB)}",
                _number(row["step_seconds"], 1e-3),
                "yes" if row["fits"] == "True" else "no",
            )
        )
    header = (
        *("configuration", "slice", "images a core", "precision", "TFLOP", "GB read and written"),
        *("GiB of temporaries", "GiB needed / there", "ms a step at least", "fits"),
    )
    return pages.table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", metavar="PATTERN", help="of rows' names")
    pattern = parser.parse_args().only
    if importlib.util.find_spec("libtpu") is None:
        print("left out: it needs pip install 'official-maskrcnn[tpu-check]'")
        return
    rows: dict[str, dict[str, str]] = {}
    if _CSV.exists():
        with _CSV.open(newline="") as file:
            rows = {row["row"]: row for row in csv.DictReader(file)}
    for name in _ROWS:
        if fnmatch.fnmatchcase(name, pattern):
            rows[name] = _compile(name)
            rows = {name: rows[name] for name in _ROWS if name in rows}
            with _CSV.open("w", newline="") as file:
                writer = csv.DictWriter(file, _COLUMNS)
                writer.writeheader()
                writer.writerows(rows.values())
    pages.replace_tables(_PAGE, {"comparison": _comparison(rows), "published": _published(rows)})


if __name__ == "__main__":
    main()
