"""What a side of a comparison does in its process. Standard library only: peers have no more."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping

Measurement = dict[str, float]  # seconds, peak_mb, and what the side adds


def serve(measure: Callable[[], Mapping[str, float]]) -> None:
    """In the process of a side: one measurement for each line on standard input.

    Args:
      measure: does the work once, and returns numbers that both sides should agree on.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    print(json.dumps(_timed(measure, since=float(os.environ["STARTED"]))), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(_timed(measure, since=time.time())), file=answers, flush=True)


def _timed(measure: Callable[[], Mapping[str, float]], since: float) -> Measurement:
    numbers = measure()
    seconds = time.time() - since
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mb": peak_mb, **numbers}
