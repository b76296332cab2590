"""Syslog over UDP, TCP and TLS to mail.raw, with one thread and a selector.

A sender's lines cannot be asked for again. So when too much is under way, TCP and TLS are not read, and the senders
wait; datagrams are taken and dropped, and counted. What is held is bounded: the outbox, one begun frame for each
connection, so many connections in all and from one address. Whatever a sender does wrong ends its connection at most,
is counted by kind, and told in one line at a time.

A run is a generation, and lines are numbered as they are taken in, whoever sent them: lines go out in that order, so
what is sent to Kafka again is known by its number. A generation for each connection would do that, too, but reducers
keep a watermark for each generation, and senders may connect for every line.

The listeners are in `syslog_sockets`, a connection in `syslog_peer`, frames in `framing`, lines in `syslog_lines`.
"""

from __future__ import annotations

import selectors
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING

from mailspan.wire import Reading, encode_reading
from producers.lines import Lines
from producers.outbox import Outbox
from producers.shipping import Batch
from producers.syslog_lines import as_line
from producers.syslog_peer import Connection, Notes, PeerError
from producers.syslog_sockets import kernel_drops

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Sequence

    from producers.shipping import Arrivals, RawTopic
    from producers.tail import Clock

_MOST_BYTES_UNDER_WAY = 16 << 20
_LINE_COST_BYTES = 160  # what Python needs for a line besides its bytes
_READS_AT_ONCE = 4
_ACCEPTS_AT_ONCE = 64
_DATAGRAMS_AT_ONCE = 256
_DATAGRAM_BYTES = 65536
_LOOK_SECONDS = 1.0
_FULL_WAIT_SECONDS = 0.05
_DRAIN_SECONDS = 1.0
_PAUSE_TOLD_SECONDS = 10.0
_PAUSED = "syslog: too much is under way to Kafka; TCP and TLS are not read for now"
_RESUMED = "syslog: TCP and TLS are read again"


@dataclass(frozen=True, slots=True)
class SyslogLimits:
    """What one sender, and all of them, may take."""

    connections: int = 1000
    connections_per_address: int = 100
    handshake_seconds: float = 10.0
    frame_seconds: float = 60.0
    """How long a frame may take from its first byte to its last."""
    idle_seconds: float = 86400.0
    """How long a connection may be silent: long, for senders lose lines when they find it closed."""


@dataclass(frozen=True, slots=True)
class SyslogSettings:
    """What the headers say; `log_host` is the host of lines that name none, instead of their sender."""

    host: str
    zone: str = ""
    observer: str = ""
    log_host: str = ""
    limits: SyslogLimits = SyslogLimits()


@dataclass(slots=True)
class SyslogCounts:
    """What happened since the start; for logs and metrics."""

    connections: int = 0
    """How many were accepted."""
    lines: Counter[str] = field(default_factory=Counter)
    """Lines by input: udp, tcp, tls."""
    received_bytes: Counter[str] = field(default_factory=Counter)
    dropped_datagrams: int = 0
    """Dropped by us, as the outbox was full."""
    kernel_drops: int = 0
    """Dropped by the kernel, as they were not read in time."""
    cut_frames: int = 0
    truncated_frames: int = 0
    """Frames that were not complete when their connection ended."""
    refused: Counter[str] = field(default_factory=Counter)
    """Connections that were not let in, by reason."""
    closed: Counter[str] = field(default_factory=Counter)
    """Connections that we ended, or that broke off, by reason."""


@dataclass(slots=True)
class Listener:
    """An open listener: `kind` is udp, tcp or tls."""

    kind: str
    socket: socket.socket
    context: ssl.SSLContext | None = None
    drops: int = 0
    """How many datagrams the kernel had dropped when it was last looked at."""


class SyslogServer:
    """Takes messages in from `listeners`; `step` does a bit of work."""

    def __init__(
        self,
        listeners: Sequence[Listener],
        topic: RawTopic,
        settings: SyslogSettings,
        clock: Clock,
        report: Callable[[str], None],
    ) -> None:
        self.counts = SyslogCounts()
        self._settings = settings
        self._limits = settings.limits
        self._clock = clock
        self._outbox = Outbox(topic, clock, report, _MOST_BYTES_UNDER_WAY, _LINE_COST_BYTES)
        self._report = report
        self._notes = Notes(report, clock.steady)
        self._listeners = list(listeners)
        self._connections: dict[Connection, str] = {}
        self._per_address: Counter[str] = Counter()
        self._is_paused = self._is_pause_told = False
        self._next_look = self._tell_pause_at = 0.0
        self._now_text = (0, b"")
        self._generation = token_hex(8)
        self._end_offset = 0
        self._selector = selectors.DefaultSelector()
        for each in self._listeners:
            self._watch(each)

    # -- for the command and for metrics ---------------------------------------------------------------------------

    @property
    def open_connections(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    @property
    def is_settled(self) -> bool:
        """Whether all that was taken in has arrived."""
        return self._outbox.is_settled

    @property
    def is_paused(self) -> bool:
        """Whether TCP and TLS are not read, as too much is under way."""
        return self._is_paused

    @property
    def arrived(self) -> Arrivals:
        """What Kafka has."""
        return self._outbox.arrived

    @property
    def held_bytes(self) -> int:
        """How many bytes are held until they have arrived, with what lines cost besides."""
        return self._outbox.held_bytes

    @property
    def lines_under_way(self) -> int:
        """How many lines were taken in and have not arrived."""
        return self._outbox.lines_under_way

    # -- the loop ----------------------------------------------------------------------------------------------------

    def step(self, seconds: float) -> None:
        """Send, and take in what comes within `seconds`."""
        is_sent = self._outbox.work()
        self._pause_or_resume()
        now = self._clock.steady()
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._look(now)
        if self._is_paused:
            self._serve_sockets(0)
            self._outbox.wait(_FULL_WAIT_SECONDS)
        else:
            self._serve_sockets(seconds if is_sent else _FULL_WAIT_SECONDS)

    def settle(self, seconds: float) -> None:
        """Send without taking anything in; for the end."""
        if not self._outbox.work() or not self._outbox.is_settled:
            self._outbox.wait(seconds)

    def drain(self) -> None:
        """Close the listeners, read what has come already, and close the connections; for the end."""
        for listener in self._listeners:
            if listener.kind == "udp":
                self._take_datagrams(listener)
                self.counts.kernel_drops += max(0, kernel_drops(listener.socket) - listener.drops)
            self._unwatch(listener.socket)
            listener.socket.close()
        self._listeners.clear()
        deadline = self._clock.steady() + _DRAIN_SECONDS
        for each in list(self._connections):
            before = -1
            while each in self._connections and not each.is_shaking_hands and not self._outbox.is_full:
                received = self.counts.received_bytes.total()
                if received == before or self._clock.steady() > deadline:
                    break
                before = received
                self._read(each)
        for each in list(self._connections):
            self._end(each, is_clean=False)
        self._selector.close()

    def _watch(self, each: Listener | Connection) -> None:
        events = selectors.EVENT_READ
        if isinstance(each, Connection) and each.wants_write:
            events = selectors.EVENT_WRITE
        if each.socket in self._selector.get_map():
            self._selector.modify(each.socket, events, each)
        else:
            self._selector.register(each.socket, events, each)

    def _unwatch(self, watched: socket.socket) -> None:
        if watched in self._selector.get_map():
            self._selector.unregister(watched)

    def _pause_or_resume(self) -> None:
        """Stop reading streams when the outbox is full, and go on when half of it has arrived."""
        if self._is_paused == (not self._outbox.is_half_empty if self._is_paused else self._outbox.is_full):
            return
        self._is_paused = not self._is_paused
        streams = [each for each in self._listeners if each.kind != "udp"]
        if self._is_paused:
            for key in (*(each.socket for each in streams), *(each.socket for each in self._connections)):
                self._unwatch(key)
            return
        now = self._clock.steady()
        for listener in streams:
            self._watch(listener)
        for each in self._connections:  # that they were not read is not their fault
            each.active_at = each.opened_at = now
            each.frame_since = None if each.frame_since is None else now
            self._watch(each)

    def _serve_sockets(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if isinstance(key.data, Listener):
                self._serve_listener(key.data)
            elif not self._outbox.is_full:  # else it stays readable
                self._serve_connection(key.data)

    def _serve_listener(self, listener: Listener) -> None:
        if listener.kind == "udp":
            self._take_datagrams(listener)
        else:
            self._accept(listener)

    def _look(self, now: float) -> None:
        """Once a second: senders that are too slow, datagrams that the kernel dropped."""
        self._notes.tick()
        for listener in self._listeners:
            if listener.kind == "udp":
                drops = kernel_drops(listener.socket)
                if drops > listener.drops:
                    self.counts.kernel_drops += drops - listener.drops
                    listener.drops = drops
                    self._notes.tell("drops", "", f"syslog: the kernel dropped {drops} datagrams so far")
        if self._is_paused != self._is_pause_told and now >= self._tell_pause_at:
            self._is_pause_told = self._is_paused
            self._tell_pause_at = now + _PAUSE_TOLD_SECONDS
            if any(each.kind != "udp" for each in self._listeners):
                self._report(_PAUSED if self._is_paused else _RESUMED)
        if self._is_paused:
            return
        for listener in self._listeners:
            self._watch(listener)
        limits = self._limits
        for each in list(self._connections):
            if each.is_shaking_hands:
                if now - each.opened_at > limits.handshake_seconds:
                    self._fail(each, PeerError("handshake timeout", "TLS was not agreed upon in time"))
            elif each.frame_since is not None:
                if now - each.frame_since > limits.frame_seconds:
                    self._fail(each, PeerError("slow frame", "a frame was begun and not ended in time"))
            elif now - each.active_at > limits.idle_seconds:
                self._fail(each, PeerError("idle", "nothing came for long"))

    # -- datagrams ---------------------------------------------------------------------------------------------------

    def _take_datagrams(self, listener: Listener) -> None:
        lines: list[bytes] = []
        size = 0
        now = self._now()
        for _ in range(_DATAGRAMS_AT_ONCE):
            try:
                datagram, sender = listener.socket.recvfrom(_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:  # an ICMP answer, for one
                self._notes.tell("udp", "", f"syslog: --udp: {error.strerror or error}")
                break
            if self._outbox.is_full:
                self.counts.dropped_datagrams += 1
                self._notes.tell("full", "", "syslog: too much is under way to Kafka; datagrams are dropped")
                continue
            size += len(datagram)
            host = self._settings.log_host or _plain(sender[0])
            line = as_line(datagram, host.encode(), now)
            if line:
                lines.append(line)
        self.counts.received_bytes["udp"] += size
        if lines:
            self._ship("udp", lines, self._encode(self._settings.observer))

    # -- connections -------------------------------------------------------------------------------------------------

    def _accept(self, listener: Listener) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                raw, sender = listener.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._unwatch(listener.socket)  # until the next look: it would be readable all the time
                self._notes.tell("accept", "", f"syslog: --{listener.kind}: no connection taken ({error.strerror})")
                return
            address = _plain(sender[0])
            reason = self._refusal(address)
            if reason:
                raw.close()
                self.counts.refused[reason] += 1
                self._notes.tell(reason, address, f"syslog: {address}: not let in: {reason}")
                continue
            try:
                connection = Connection(raw, address, listener.context, self._clock.steady())
            except OSError:  # it is gone already
                raw.close()
                self.counts.closed["broken off"] += 1
                continue
            self.counts.connections += 1
            self._connections[connection] = listener.kind
            self._per_address[address] += 1
            self._watch(connection)

    def _refusal(self, address: str) -> str:
        if len(self._connections) >= self._limits.connections:
            return "too many connections"
        if self._per_address[address] >= self._limits.connections_per_address:
            return "too many connections of one address"
        return ""

    def _serve_connection(self, connection: Connection) -> None:
        wanted_write = connection.wants_write
        try:
            if connection.is_shaking_hands and connection.shake_hands():
                connection.active_at = self._clock.steady()
        except PeerError as error:
            self._fail(connection, error)
            return
        if not connection.is_shaking_hands:
            self._read(connection)
        if connection in self._connections and connection.wants_write != wanted_write:
            self._watch(connection)

    def _read(self, connection: Connection) -> None:
        kind = self._connections[connection]
        frames: list[bytes] = []
        ended: PeerError | None = None
        data: bytes | None = b"?"
        for _ in range(_READS_AT_ONCE):
            try:
                data = connection.read()
            except PeerError as error:
                ended = error
                break
            if not data:
                break
            self.counts.received_bytes[kind] += len(data)
            frames += connection.splitter.feed(data)
            if connection.splitter.fault:
                ended = PeerError("bad framing", connection.splitter.fault)
                break
        is_over = ended is not None or data == b""
        if is_over:
            frames += connection.splitter.end(is_clean=ended is None)
        self._take(connection, kind, frames)
        if ended is not None:
            self._fail(connection, ended)
        elif is_over:
            self._end(connection, is_clean=True)

    def _take(self, connection: Connection, kind: str, frames: list[bytes]) -> None:
        now = self._clock.steady()
        connection.active_at = now
        if not connection.splitter.is_begun:
            connection.frame_since = None
        elif connection.frame_since is None or frames:
            connection.frame_since = now
        if not frames:
            return
        host = (self._settings.log_host or connection.host).encode()
        stamp = self._now()
        lines = [as_line(frame, host, stamp) for frame in frames]
        second = int(self._clock.epoch())
        if connection.encoded[0] != second:
            observer = connection.certificate or self._settings.observer
            connection.encoded = second, self._encode(observer)
        self._ship(kind, lines, connection.encoded[1])

    def _fail(self, connection: Connection, error: PeerError) -> None:
        self.counts.closed[error.kind] += 1
        self._notes.tell(error.kind, connection.address, f"syslog: {connection.address}: {error}; closed")
        self._end(connection, is_clean=False)

    def _end(self, connection: Connection, *, is_clean: bool) -> None:
        """Forget a connection; what it has begun and not ended is counted."""
        frames = connection.splitter.end(is_clean=is_clean)
        kind = self._connections[connection]
        if frames:
            self._take(connection, kind, frames)
        self.counts.cut_frames += connection.splitter.cut
        self.counts.truncated_frames += connection.splitter.truncated
        self._unwatch(connection.socket)
        del self._connections[connection]
        self._per_address[connection.address] -= 1
        if not self._per_address[connection.address]:
            del self._per_address[connection.address]
        connection.close()

    # -- lines -------------------------------------------------------------------------------------------------------

    def _ship(self, kind: str, lines: list[bytes], reading: bytes) -> None:
        self.counts.lines[kind] += len(lines)
        first, end = self._end_offset, self._end_offset + len(lines)
        self._end_offset = end
        found = Lines(lines, list(range(first, end)), end)
        self._outbox.add(Batch(found, reading, int(self._clock.epoch())))

    def _encode(self, observer: str) -> bytes:
        now = int(self._clock.epoch())
        settings = self._settings
        return encode_reading(Reading(self._generation, now, now, settings.host, settings.zone, "syslog", observer))

    def _now(self) -> bytes:
        """Return the time as RFC 3339, for messages that have no stamp."""
        second = int(self._clock.epoch())
        if self._now_text[0] != second:
            self._now_text = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
        return self._now_text[1]


def _plain(address: str) -> str:
    """Return an address without IPv6's dress of an IPv4 one, and without a zone."""
    return address.removeprefix("::ffff:").partition("%")[0] if "." in address else address.partition("%")[0]
