"""What producers show of themselves as metrics (mailspan/metrics.py), by input; made of what they count anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailspan.metrics import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from producers.journal import Journal
    from producers.kafka import KafkaTopic
    from producers.shipping import Arrivals
    from producers.stdin import Stdin
    from producers.syslog import SyslogServer
    from producers.tail import Tail

STAGE = "produce"


def of_tail(tail: Tail, topic: KafkaTopic) -> Iterator[Figure]:
    """Yield the figures of `produce tail`."""
    labels = ("tail",)
    yield from _of_all("tail", tail.arrived, topic)
    yield Figure("mailspan_producer_bytes_behind", tail.bytes_behind, labels)
    yield Figure("mailspan_producer_files", tail.open_files, labels)
    yield Figure("mailspan_producer_known_files", tail.known, labels)
    yield Figure("mailspan_producer_truncations_total", tail.counts.truncations, labels)
    yield Figure("mailspan_producer_lost_files_total", tail.counts.lost_files, labels)
    yield Figure("mailspan_producer_file_faults_total", tail.counts.faults, labels)


def of_journal(journal: Journal, topic: KafkaTopic) -> Iterator[Figure]:
    """Yield the figures of `produce journal`."""
    counts = journal.counts
    yield from _of_all("journal", journal.arrived, topic)
    yield Figure("mailspan_producer_held_bytes", journal.held_bytes, ("journal",))
    yield Figure("mailspan_journal_newest_timestamp_seconds", counts.newest_seconds or None)
    yield Figure("mailspan_journal_starts_total", counts.child_starts)
    yield Figure("mailspan_journal_lost_cursors_total", counts.lost_cursors)
    for reason, count in counts.passed_over.items():
        yield Figure("mailspan_journal_entries_passed_over_total", count, (reason,))


def of_stdin(stream: Stdin, topic: KafkaTopic) -> Iterator[Figure]:
    """Yield the figures of `produce stdin`."""
    yield from _of_all("stdin", stream.arrived, topic)
    yield Figure("mailspan_producer_held_bytes", stream.held_bytes, ("stdin",))


def of_syslog(server: SyslogServer, topic: KafkaTopic) -> Iterator[Figure]:
    """Yield the figures of `produce syslog`."""
    counts = server.counts
    yield from _of_all("syslog", server.arrived, topic)
    yield Figure("mailspan_producer_held_bytes", server.held_bytes, ("syslog",))
    for transport in ("udp", "tcp", "tls"):
        yield Figure("mailspan_syslog_lines_total", counts.lines[transport], (transport,))
        yield Figure("mailspan_syslog_bytes_total", counts.received_bytes[transport], (transport,))
    yield Figure("mailspan_syslog_datagrams_dropped_total", counts.dropped_datagrams, ("full",))
    yield Figure("mailspan_syslog_datagrams_dropped_total", counts.kernel_drops, ("kernel",))
    yield Figure("mailspan_syslog_connections", server.open_connections)
    yield Figure("mailspan_syslog_connections_accepted_total", counts.connections)
    for reason, count in counts.refused.items():
        yield Figure("mailspan_syslog_connections_refused_total", count, (reason,))
    for reason, count in counts.closed.items():
        yield Figure("mailspan_syslog_connections_closed_total", count, (reason,))
    yield Figure("mailspan_syslog_frames_cut_total", counts.cut_frames)
    yield Figure("mailspan_syslog_frames_truncated_total", counts.truncated_frames)
    yield Figure("mailspan_syslog_paused", server.is_paused)


def _of_all(name: str, arrived: Arrivals, topic: KafkaTopic) -> Iterator[Figure]:
    labels = (name,)
    yield Figure("mailspan_producer_lines_total", arrived.lines, labels)
    yield Figure("mailspan_producer_bytes_total", arrived.bytes, labels)
    yield Figure("mailspan_record_age_seconds", arrived.ages.distribution, (STAGE,))
    yield Figure("mailspan_producer_restarts_total", topic.restarts, labels)
    yield Figure("mailspan_producer_kafka_up", not topic.is_away, labels)
    yield Figure("mailspan_producer_queue_lines", topic.lines_under_way, labels)
    yield Figure("mailspan_producer_queue_limit_lines", topic.most_lines, labels)
    yield Figure("mailspan_producer_queue_full_total", topic.times_full, labels)
