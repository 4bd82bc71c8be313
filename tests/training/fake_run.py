"""Stands in for a training: `fake_run.py FOLDER STEPS BEHAVIOUR`, with a metrics.jsonl as usual.

BEHAVIOUR is the exit code of each try in turn, comma-separated (the last one goes on; `parent`
kills the process that started it), or `wait`: until SIGTERM, then 143; or `ignore`: not even that.
A try writes one line to FOLDER/tries: time of start and of end, its cores, and its GPUs.
"""

import json
import os
import pathlib
import signal
import sys
import time


def main() -> None:
    folder, steps, behaviour = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    tries = folder / "tries"
    number = len(tries.read_text().splitlines()) if tries.exists() else 0
    start = time.time()
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        for phase, metrics in (("train", {"total_loss": 1.0}), ("eval", {"mask/AP": steps / 1000})):
            line = {"time": start, "step": steps, "phase": phase, **metrics}
            file.write(json.dumps(line) + "\n")
    print(f"this is try {number + 1}", flush=True)
    if behaviour == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if behaviour in ("wait", "ignore"):
        (folder / "ready").touch()
        time.sleep(60)
    codes = behaviour.split(",")
    time.sleep(0.3)
    with open(tries, "a", encoding="utf-8") as file:
        cores = sorted(os.sched_getaffinity(0))
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        file.write(json.dumps([start, time.time(), cores, gpus]) + "\n")
    code = codes[min(number, len(codes) - 1)]
    if code == "parent":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if int(code) < 0:
        os.kill(os.getpid(), -int(code))
    sys.exit(int(code))


if __name__ == "__main__":
    main()
