"""A real Prometheus beside all stages on the real Kafka and Elasticsearch: each rule and panel is asked, alerts fire.

One run serves all tests here. First all is well, and everything that is asked has an answer; then Elasticsearch is
away, a record is poisoned, the producer ends, and the alerts for that fire. Of the rules only the durations of `for` are
others.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from deploy.grafana import dashboards
from mailspan.metrics import BY_NAME
from tests.alert_cases import RULES, rules
from tests.chain import Chain
from tests.jars import end, free_port
from tests.kafka_site import wait_until
from tests.monitoring import OF_OTHERS, asked, prometheus_queries, search_of
from tests.prometheus_server import Prometheus, needs_prometheus, running
from tests.scraping import get, is_answering
from tests.tcp_proxy import Proxy, proxied

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.elasticsearch_server import Node
    from tests.kafka_server import Broker

pytestmark = [pytest.mark.slow, needs_prometheus]

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


def mail(count: int, first: int) -> bytes:
    """Return the log of so many mails of now, of each outcome some, and a refusal."""
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ mx1.example.com postfix")
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
        f"{at}/smtp[105]: of no rule",
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

    def write(self, count: int, first: int) -> None:
        with self.log.open("ab") as file:
            file.write(mail(count, first))

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
        found.write(60, 60)
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


def test_alerts_fire_when_it_happens(live: Live) -> None:
    """Last, as it breaks the run: a poison record; documents that go nowhere while lines wait; no producer."""
    wanted = {"MailspanDeadLetters", "MailspanLagGrowing"}
    assert not live.prometheus.firing() & wanted
    live.chain.send([(b"poison", b"no document")])
    wait_until(lambda: "MailspanDeadLetters" in live.prometheus.firing())
    live.proxy.is_silent = True
    live.proxy.reset()
    live.write(60, 120)
    wait_until(lambda: live.has('sum(mailspan_lag_records{stage="sink"}) > 0'))
    end(live.processes["producer"][0], signal.SIGTERM)
    wait_until(
        lambda: (wanted | {"MailspanTargetDown", "MailspanStageAbsent"}) <= live.prometheus.firing(), LATE_SECONDS
    )
