"""A real Prometheus beside all stages on the real Kafka and Elasticsearch: each rule and panel is asked, alerts fire.

One run serves all tests here. First all is well, and everything that is asked has an answer, and canaries arrive; then
a record is poisoned, and to the line and to the document all is accounted for; then Elasticsearch is away, the producer
ends, and the alerts for that fire. Of the rules only the durations of `for` are others.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from deploy.grafana import dashboards
from mailspan.canary import CANARY_NAME, Canary, encode_canary
from mailspan.metrics import BY_NAME
from tests.alert_cases import RULES, rules
from tests.chain import Chain, record
from tests.jars import end, free_port
from tests.kafka_site import PARTITIONS, wait_until
from tests.monitoring import OF_OTHERS, asked, prometheus_queries, search_of
from tests.prometheus_server import Prometheus, needs_prometheus, running
from tests.scraping import get, is_answering, scrape
from tests.tcp_proxy import Proxy, proxied

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.elasticsearch_server import Node
    from tests.kafka_server import Broker

pytestmark = [pytest.mark.slow, pytest.mark.live, needs_prometheus]

STAGES = {"producer": ("produce", "tail"), "reducer": ("reduce",), "sink": ("sink",)}
OF_OTHER_INPUTS = ("mailspan_syslog_", "mailspan_journal_", "mailspan_producer_held_bytes")
LATE_SECONDS = 240.0
"""In so long what needs two minutes must have happened on a busy machine."""
OUTCOMES = {
    "sent": ("2.0.0", "sent (250 2.0.0 Ok: queued as 9C41E2A0D7)", "gmail.com"),
    "deferred": ("4.4.1", "deferred (connect to mx.example.net[198.51.100.7]:25: Connection timed out)", "example.net"),
    "bounced": ("5.1.1", "bounced (host mx.example.net[198.51.100.7] said: 550 5.1.1 no such user)", "outlook.com"),
}
RELAY = "relay=mx.example.net[198.51.100.7]:25, delay=0.9, delays=0.1/0/0.3/0.5"
CONFIGURATION = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
{jobs}
"""


OLD_DAYS, KEPT_DAYS = 200, 90


def mail(count: int, first: int, days_ago: int = 0) -> bytes:
    """Return the log of so many mails, of now unless told otherwise, of each outcome some, and a refusal."""
    moment = datetime.now(UTC) - timedelta(days=days_ago)
    at = moment.strftime("%Y-%m-%dT%H:%M:%SZ mx1.example.com postfix")
    lines = []
    for number in range(first, first + count):
        key = f"{0x3B6D700000 + number:010X}"
        dsn, status, domain = list(OUTCOMES.values())[number % len(OUTCOMES)]
        lines += [
            f"{at}/smtpd[101]: {key}: client=mua.example.com[192.0.2.10]",
            f"{at}/cleanup[102]: {key}: message-id=<{number}@example.com>",
            f"{at}/qmgr[103]: {key}: from=<bob@example.com>, size=1423, nrcpt=1 (queue active)",
            f"{at}/smtp[104]: {key}: to=<alice@{domain}>, {RELAY}, dsn={dsn}, status={status}",
        ]
        lines += [] if dsn.startswith("4") else [f"{at}/qmgr[103]: {key}: removed"]
    lines.append(
        f"{at}/smtpd[101]: NOQUEUE: reject: RCPT from unknown[192.0.2.66]: 554 5.7.1 <eve@example.com>: Recipient address"
        f" rejected: Access denied; from=<mallory@example.org> to=<eve@example.com> proto=ESMTP helo=<x{first}>"
    )
    lines += [
        f"{at}/smtp[105]: to=<a@example.com>, of no rule",
        f"{at}/master[1]: daemon started",
        f"{at[:20]} mx1.example.com cron[9]: x{first}",
    ]
    return "\n".join([*lines, ""]).encode()


class Live(NamedTuple):
    """The run: its places, its Prometheus, the way to Elasticsearch, and each stage's process and port."""

    chain: Chain
    prometheus: Prometheus
    proxy: Proxy
    processes: dict[str, tuple[subprocess.Popen[bytes], int]]
    log: Path

    def write(self, lines: bytes) -> None:
        with self.log.open("ab") as file:
            file.write(lines)

    def total(self, job: str, name: str, **labels: str) -> int:
        """Return what a process itself says."""
        return round(scrape(self.processes[job][1]).total(name, **labels))

    def has(self, expression: str) -> bool:
        return bool(self.prometheus.query(expression))


@contextmanager
def stage(chain: Chain, *command: str, port: int, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a stage with a port for its metrics."""
    environment = chain.environment(METRICS_ADDRESS=f":{port}", **settings)
    with (chain.folder / "stderr").open("ab") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "mailspan", *command], stderr=stderr, env=environment)
    try:
        yield process, port
    finally:
        end(process, signal.SIGKILL)


def quick(text: str) -> str:
    """Return the rules with every `for` of a second; nothing else of them changes."""
    return re.sub(r"^( +for:) \w+$", r"\1 1s", text, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def live(broker: Broker, node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("monitoring")
    chain = Chain(broker, node, folder)
    chain.settings |= {"CANARY_SECONDS": "2", "COMMIT_INTERVAL_SECONDS": "0.3", "RETENTION_DAYS": str(KEPT_DAYS)}
    chain.setup()
    log = folder / "mail.log"
    log.write_bytes(mail(60, 0))
    with ExitStack() as stack:
        proxy = stack.enter_context(proxied(node.port))
        chain.settings["ELASTICSEARCH_URL"] = f"http://127.0.0.1:{proxy.port}"
        ports, processes = {job: free_port() for job in STAGES}, {}
        for job, command in STAGES.items():
            arguments = (*command, str(log)) if job == "producer" else command
            processes[job] = stack.enter_context(stage(chain, *arguments, port=ports[job]))
        wait_until(lambda: all(is_answering(port) for port in ports.values()))
        wait_until(lambda: all(get(port, "/readyz")[0] == 200 for port in ports.values()))
        jobs = "\n".join(
            f"  - {{job_name: {job}, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}"
            for job, port in ports.items()
        )
        (folder / "rules.yml").write_text(quick(RULES.read_text(encoding="utf-8")), encoding="utf-8")
        prometheus = stack.enter_context(running(folder, CONFIGURATION.format(jobs=jobs)))
        found = Live(chain, prometheus, proxy, processes, log)
        wait_until(lambda: found.has("sum(mailspan_sink_records_total) > 60"))
        found.write(mail(60, 60))
        wait_until(lambda: found.has("sum(mailspan_sink_records_total) > 120"))
        wait_until(
            lambda: found.has("sum(mailspan_lag_records) == 0 and sum(rate(mailspan_sink_records_total[1m])) > 0")
        )
        yield found


def test_only_the_durations_of_for_are_others() -> None:
    before, after = RULES.read_text(encoding="utf-8"), quick(RULES.read_text(encoding="utf-8"))
    changed = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert {new.strip() for _, new in changed} == {"for: 1s"}
    assert all(re.fullmatch(r" +for: \w+", old) for old, _ in changed)


def must_answer(expression: str) -> bool:
    """Whether this run has what an expression asks for."""
    return not any(name.startswith(OF_OTHER_INPUTS) for name in bases(expression))


def bases(expression: str) -> set[str]:
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    found = {name for each in asked(expression).metrics for name in asked(recorded.get(each, each)).metrics}
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def test_every_rule_is_evaluated_and_what_it_asks_for_is_there(live: Live) -> None:
    assert {rule["name"] for rule in all_rules(live)} == {rule.get("alert") or rule["record"] for rule in rules()}
    wait_until(lambda: all(each["health"] != "unknown" for each in all_rules(live)))
    assert [each["lastError"] for each in all_rules(live) if each["health"] != "ok"] == []
    empty = set()
    for rule in rules():
        found = live.prometheus.query(rule["expr"])
        if "record" in rule and must_answer(rule["expr"]) and not found:
            empty.add(rule["record"])
        for name in asked(rule["expr"]).metrics:
            if must_answer(name) and not live.has(name):
                empty.add(name)
    assert empty == set()


def all_rules(live: Live) -> list[dict[str, Any]]:
    _, answer = live.prometheus.get("/api/v1/rules")
    return [rule for group in answer["data"]["groups"] for rule in group["rules"]]


def test_every_panel_of_the_stages_has_data(live: Live) -> None:
    asked_for = [query for uid in dashboards.DASHBOARDS for query in prometheus_queries(dashboards.dashboard(uid))]
    assert len(asked_for) > 60
    empty = {pair for pair in asked_for if not live.prometheus.query(pair[1]) and must_answer(pair[1])}
    assert empty == set()


def test_nothing_is_shown_that_the_list_does_not_have(live: Live) -> None:
    _, answer = live.prometheus.get("/api/v1/label/__name__/values")
    names = {
        re.sub(r"_(bucket|sum|count|created)$", "", name) for name in answer["data"] if name.startswith("mailspan_")
    }
    assert names - BY_NAME.keys() == set()
    wanted = {name for rule in rules() for name in bases(rule["expr"]) if must_answer(name)} - OF_OTHERS
    assert wanted - names == set()


def test_every_panel_of_the_mail_flow_has_documents(live: Live) -> None:
    index = f"{live.chain.settings['INDEX_PREFIX']}-*"
    assert live.chain.node.ask("POST", f"/{index}/_refresh")[0] == 200
    now = int(time.time() * 1000)
    empty = []
    for panel in dashboards.dashboard("mailspan-mail-flow")["panels"]:
        search = search_of(panel["targets"][0], now - 3_600_000, now + 60_000)
        status, answer = live.chain.node.ask("POST", f"/{index}/_search", search)
        assert status == 200, (panel["title"], answer)
        assert isinstance(answer, dict)
        assert answer["_shards"]["failed"] == 0
        if not any(values(answer["aggregations"])):
            empty.append(panel["title"])
    assert empty == []


def values(found: Any) -> Iterator[float]:  # noqa: ANN401 - JSON
    """Yield the counts of the innermost buckets, or the percentiles there."""
    for each in found.values() if isinstance(found, dict) else found:
        if not isinstance(each, dict | list):
            continue
        if (
            isinstance(each, dict)
            and not any(isinstance(inner, dict) for inner in each.values())
            and "doc_count" in each
        ):
            yield each["doc_count"]
        elif isinstance(each, dict) and "values" in each:
            yield from (value for value in each["values"].values() if value is not None)
        else:
            yield from values(each)


def test_canaries_of_the_producer_come_into_their_index_by_all_partitions(live: Live) -> None:
    index = f"canary.{live.chain.settings['INDEX_PREFIX']}-*"
    hits: list[dict[str, Any]] = []

    def have_all_arrived() -> bool:
        assert live.chain.node.ask("POST", f"/{index}/_refresh")[0] == 200
        _, answer = live.chain.node.ask("POST", f"/{index}/_search", {"size": 100})
        assert isinstance(answer, dict)
        hits[:] = answer["hits"]["hits"]
        return len(hits) >= PARTITIONS

    wait_until(have_all_arrived)
    own = socket.gethostname()
    assert {hit["_id"] for hit in hits} == {f"{own}/tail/{partition}" for partition in range(PARTITIONS)}
    for hit in hits:
        sent, written = (datetime.fromisoformat(hit["_source"][name]) for name in ("sent", "written"))
        assert timedelta(0) <= written - sent < timedelta(seconds=60)
        assert hit["_index"].endswith(f"{sent:-%Y.%m.%d}")
    # Two seconds lie between two of them: as soon as none is under way, each stage says that it had the same number.
    wait_until(lambda: len({live.total(job, "mailspan_canaries_total") for job in STAGES}) == 1)
    assert live.total("sink", "mailspan_canaries_total") >= PARTITIONS
    for stage_name in ("produce", "reduce", "sink"):
        assert live.has(f'mailspan_canary_age_seconds{{stage="{stage_name}"}} < 60')
    assert live.has('mailspan_topic_retention_seconds{stage="reduce"} == 7 * 86400')
    assert live.has('mailspan_topic_retention_seconds{stage="sink"} == 7 * 86400')
    assert live.has('mailspan_restore_seconds_count{stage="sink"} == 6')


def test_all_that_was_sent_is_accounted_for_in_each_stage(live: Live) -> None:
    """By what the processes themselves say: no line, no document and no record is counted nowhere or twice.

    Among them are what is of no use, copies, what says that it is a canary, a mail that is too old, and a poison record.
    """
    forged = encode_canary(Canary(int(time.time() * 1000), "mx1.example.com", "tail"))
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ mx1.example.com").encode()
    text = b"".join(
        b"%b postfix/smtp[9]: %b: %b\n" % (stamp, CANARY_NAME.encode(), each) for each in (forged, b"", b"x")
    )
    copies = mail(3, 150)
    live.write(copies + copies + text + CANARY_NAME.encode() + b"\n\n" + mail(3, 200, OLD_DAYS))
    lines = live.log.read_bytes().count(b"\n")
    wait_until(lambda: live.total("reducer", "mailspan_reducer_lines_total") >= lines)
    quiet_seconds = 6.0  # documents that need not be written at once are, 5 s later
    documents, since = -1, time.monotonic()

    def is_all_written() -> bool:
        nonlocal documents, since
        count = live.total("reducer", "mailspan_reducer_documents_total")
        if count != documents:
            documents, since = count, time.monotonic()
        return time.monotonic() - since > quiet_seconds

    wait_until(is_all_written)
    withdrawn = live.total("reducer", "mailspan_reducer_withdrawn_total")
    assert "MailspanDeadLetters" not in live.prometheus.firing()
    again = next(iter(live.chain.stored().values()))
    live.chain.send([(b"poison", b"no document"), record(again)])
    records = documents + withdrawn + 2
    wait_until(lambda: live.total("sink", "mailspan_sink_records_total") >= records)
    at_once = {job: scrape(port) for job, (_, port) in live.processes.items()}

    reduced, sunk = at_once["reducer"], at_once["sink"]
    assert at_once["producer"].total("mailspan_producer_lines_total") == lines
    assert reduced.total("mailspan_reducer_lines_total") == lines
    parts = [reduced.total(f"mailspan_reducer_lines_{what}_total") for what in ("applied", "ignored", "unparsed")]
    assert sum(parts) == lines
    assert min(parts) > 0
    assert reduced.total("mailspan_reducer_lines_ignored_total", reason="duplicate") > 0
    assert reduced.total("mailspan_reducer_documents_total") == documents
    assert sunk.total("mailspan_sink_records_total") == records
    results = {
        result: sunk.total("mailspan_sink_results_total", result=result)
        for result in ("indexed", "superseded", "expired", "dead_letters", "withdrawn")
    }
    assert sum(results.values()) == sunk.total("mailspan_sink_results_total") == records
    assert (results["dead_letters"], results["withdrawn"]) == (1, withdrawn)
    assert min(results[each] for each in ("indexed", "superseded", "expired")) > 0
    stored = live.chain.stored()
    assert len(stored) <= results["indexed"]
    assert f"{CANARY_NAME}" not in str(stored.keys())
    dropped = sunk.total("mailspan_sink_canaries_dropped_total")
    sent = at_once["producer"].total("mailspan_canaries_total")
    assert 0 < sunk.total("mailspan_canaries_total") + dropped <= sent + 1
    wait_until(lambda: "MailspanDeadLetters" in live.prometheus.firing())


def test_alerts_fire_when_it_happens(live: Live) -> None:
    """Last, as it breaks the run: documents and canaries that go nowhere while lines wait; then no producer."""
    wanted = {"MailspanLagGrowing", "MailspanCanaryLate"}
    assert not live.prometheus.firing() & wanted
    live.proxy.is_silent = True
    live.proxy.reset()
    live.write(mail(60, 220))
    wait_until(lambda: live.has('sum(mailspan_lag_records{stage="sink"}) > 0'))
    wait_until(lambda: wanted <= live.prometheus.firing(), LATE_SECONDS)
    assert "MailspanStageAbsent" not in live.prometheus.firing()
    end(live.processes["producer"][0], signal.SIGTERM)
    wait_until(lambda: {"MailspanTargetDown", "MailspanStageAbsent"} <= live.prometheus.firing(), LATE_SECONDS)
