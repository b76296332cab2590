"""/metrics, /livez and /readyz of a long-running command: the only file that imports prometheus_client.

The loop hands over its figures once a second, all of one moment; a thread shows the last ones to whoever asks. So the
loop is never waited for nor held up, and asking often costs it nothing: what is shown is made at most once a second.

- /livez: the loop turned, or asked whether to stop, within LIVE_SECONDS. It does so while it waits for Kafka or
  Elasticsearch, too: an outage there must not restart a fleet.
- /readyz: what the command says of itself: a reducer or sink has joined its group, and all partitions that it has run;
  a producer has had an answer of a broker.
"""

from __future__ import annotations

import platform
import time
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from mailspan import __version__
from mailspan.commands.small_http import Answer, HttpServer, listen
from mailspan.errors import MailspanError
from mailspan.metrics import AGE, COUNTER, Distribution, Figure, check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mailspan.metrics import Metric

    Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

LIVE_SECONDS = 120.0
"""A loop that turned no later than that is alive. Restoring one large partition is one turn; so is one request to an
Elasticsearch that does not answer, which is given up after a minute."""
_SHOW_SECONDS = 1.0


class ServeError(MailspanError):
    """The port of the metrics cannot be opened."""


class Asked(Protocol):
    """Who knows when a loop last asked whether to stop: mailspan.commands.stopping.Stop."""

    asked_at: float


class Served(Collector):
    """What a command shows of itself. Its loop calls `turn`; `figures` and `is_ready` are asked in there only."""

    def __init__(self, stage: str, stop: Asked) -> None:
        self.figures: Callable[[], Iterable[Figure]] = tuple
        self.is_ready: Callable[[], bool] = bool
        self.is_shown = False
        """Whether anybody can ask; else nothing is done."""
        self._stage = stage
        self._stop = stop
        self._next = 0.0
        self._taken: tuple[tuple[Figure, ...], bool] = ((), False)
        self._registry = CollectorRegistry()
        self._made: tuple[float, bytes] = (0.0, b"")

    def turn(self) -> None:
        """Take the figures, at most once a second."""
        now = time.monotonic()
        if self.is_shown and now >= self._next:
            self._next = now + _SHOW_SECONDS
            self._taken = tuple(self.figures()), self.is_ready()

    # -- in the server's thread ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to take and to show."""
        ProcessCollector(registry=self._registry)
        self._registry.register(self)
        self.is_shown = True

    def answer(self, path: str) -> Answer | None:
        """Return the answer to a path; None where there is none."""
        if path == "/metrics":
            return Answer(HTTPStatus.OK, self._text(), CONTENT_TYPE_PLAIN_0_0_4)
        if path == "/livez":
            silent = time.monotonic() - self._stop.asked_at
            return _probe("" if silent <= LIVE_SECONDS else f"the loop has not turned for {silent:.0f} s")
        if path == "/readyz":
            return _probe("" if self._taken[1] else "not ready")
        return None

    def collect(self) -> Iterator[Family]:
        """Yield what the registry asks for: the figures that were last taken, by metric."""
        figures, is_ready = self._taken
        beat = time.time() - (time.monotonic() - self._stop.asked_at)
        own = (
            Figure("mailspan_build_info", 1, (self._stage, __version__, platform.python_version())),
            Figure("mailspan_heartbeat_timestamp_seconds", beat, (self._stage,)),
            Figure("mailspan_ready", is_ready, (self._stage,)),
        )
        families: dict[str, Family] = {}
        for figure in (*own, *figures):
            metric = check(figure)
            family = families.get(metric.name)
            if family is None:
                family = families[metric.name] = _family(metric)
            _add(family, metric, figure)
        yield from families.values()

    def _text(self) -> bytes:
        now = time.monotonic()
        made_at, text = self._made
        if not text or now - made_at >= _SHOW_SECONDS:
            text = generate_latest(self._registry)
            self._made = now, text
        return text


def _probe(fault: str) -> Answer:
    if fault:
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{fault}\n".encode())
    return Answer(HTTPStatus.OK, b"ok\n")


def _family(metric: Metric) -> Family:
    kind: type[Family] = HistogramMetricFamily if metric.bounds else GaugeMetricFamily
    return (CounterMetricFamily if metric.type == COUNTER else kind)(metric.name, metric.meaning, labels=metric.labels)


def _add(family: Family, metric: Metric, figure: Figure) -> None:
    value = figure.value
    if isinstance(family, HistogramMetricFamily):
        if isinstance(value, Distribution):
            bounds = [*map(floatToGoString, metric.bounds), "+Inf"]
            family.add_metric(figure.labels, list(zip(bounds, map(float, value.cumulative), strict=True)), value.sum)
        return
    if isinstance(value, Distribution):
        return
    if metric.type == AGE:
        value = 0.0 if value is None else max(0.0, time.time() - value)
    if value is not None:
        family.add_metric(figure.labels, float(value))


@contextmanager
def serving(
    address: tuple[str, int] | None, stage: str, stop: Asked, report: Callable[[str], None]
) -> Iterator[Served]:
    """Serve at `address`, nothing where it is None, until the block ends. Raises ServeError."""
    served = Served(stage, stop)
    if address is None:
        yield served
        return
    host, port = address
    shown = f"[{host}]" if ":" in host else host
    try:
        listener = listen(host, port)
    except (OSError, UnicodeError) as error:
        fault = getattr(error, "strerror", None) or error
        raise ServeError(f"MAILSPAN_METRICS_ADDRESS: {shown}:{port} cannot be listened at ({fault})") from None
    report(f"metrics at http://{shown}:{listener.getsockname()[1]}/metrics")
    served.start()
    server = HttpServer(listener, served.answer, report)
    try:
        yield served
    finally:
        server.close()
