"""Counters of a server for Prometheus: requests, tokens, waiting times, rows per step."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from szilard.server.scheduler import Scheduler

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Measures:
    """What `/metrics` tells.

    Args:
        scheduler: whose queue and rows are read when somebody asks.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "szilard_requests", "Requests that were answered.", ["path", "status"], registry=self.registry
        )
        self.tokens = Counter("szilard_tokens", "Tokens.", ["kind"], registry=self.registry)
        self.first = Histogram(
            "szilard_first_token_seconds", "From arrival to the first token.", buckets=_SECONDS, registry=self.registry
        )
        self.whole = Histogram(
            "szilard_request_seconds", "From arrival to the end.", buckets=_SECONDS, registry=self.registry
        )
        waiting = Gauge("szilard_waiting_requests", "Jobs in the queue.", registry=self.registry)
        waiting.set_function(lambda: scheduler.waiting)
        rows = Gauge("szilard_rows", "Rows that the last step decoded.", registry=self.registry)
        rows.set_function(lambda: scheduler.rows)
