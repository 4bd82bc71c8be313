"""What a service counts and times, in Prometheus' form."""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        self.requests = Counter(
            "maskrcnn_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "maskrcnn_request_seconds",
            "From a request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_progress = Gauge(
            "maskrcnn_requests_in_progress",
            "Images in work or waiting, from before their request is read.",
            registry=registry,
        )
        self.batch_size = Histogram(
            "maskrcnn_batch_size",
            "Images that went through the model together.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=registry,
        )
        self.model_seconds = Histogram(
            "maskrcnn_model_seconds",
            "Of a batch in the model.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.detections = Counter(
            "maskrcnn_detections", "Objects found, before a request's threshold.", registry=registry
        )
        self.model = Info("maskrcnn_model", "What is served.", registry=registry)

    def text(self) -> bytes:
        """All of them."""
        return prometheus_client.generate_latest(self._registry)
