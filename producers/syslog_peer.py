"""One sender's connection, and what may be said about senders.

A frame that has begun must be complete within a time, however slowly its bytes come; a sender that is silent
between frames may be so for long, as rsyslog is on a quiet host.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from producers.framing import FrameSplitter
from producers.syslog_lines import is_host
from producers.syslog_sockets import certificate_name

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES = 1 << 16
_WINDOW_SECONDS = 60.0
_MOST_TOLD = 20
_TLS_HANDSHAKE = b"\x16\x03"  # RFC 8446 section 5.1: a handshake record
_LONGEST_REASON = 120

WRONG_CERTIFICATE = "certificate refused"
NOT_TLS = "no TLS"
HANDSHAKE = "TLS failed"


class PeerError(Exception):
    """The connection cannot go on: `kind` is what is counted, the message says it to people."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Notes:
    """Tells what senders do wrong: once a minute for each sender and kind, and some in all; the rest is counted."""

    def __init__(self, report: Callable[[str], None], steady: Callable[[], float]) -> None:
        self._report = report
        self._steady = steady
        self._told: set[tuple[str, str]] = set()
        self._untold = 0
        self._ends_at = 0.0

    def tell(self, kind: str, peer: str, message: str) -> None:
        """Tell it, or count it."""
        self.tick()
        if (kind, peer) in self._told or len(self._told) >= _MOST_TOLD:
            self._untold += 1
            return
        self._told.add((kind, peer))
        self._report(message)

    def tick(self) -> None:
        """Begin a new minute when it is time, and tell how much was not told in the last one."""
        now = self._steady()
        if now < self._ends_at:
            return
        if self._untold:
            self._report(f"syslog: {self._untold} more troubles with senders were not told")
        self._told.clear()
        self._untold = 0
        self._ends_at = now + _WINDOW_SECONDS


class Connection:
    """A TCP or TLS connection. `certificate` is the name by which the sender is known, once TLS has said so."""

    def __init__(self, raw: socket.socket, address: str, context: ssl.SSLContext | None, now: float) -> None:
        self.address = address
        self.certificate = ""
        self.splitter = FrameSplitter()
        self.opened_at = self.active_at = now
        self.frame_since: float | None = None
        self.is_shaking_hands = context is not None
        self.wants_write = False
        """Whether TLS waits for the socket to take bytes."""
        self.encoded: tuple[int, bytes] = (0, b"")
        """The connection's share of the header, and the second that it is good for."""
        self._is_first = context is None
        self._tls: ssl.SSLSocket | None = None
        raw.setblocking(False)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.socket: socket.socket = raw
        if context is not None:
            self._tls = context.wrap_socket(
                raw, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
            self.socket = self._tls

    @property
    def host(self) -> str:
        """The name for the host of lines that say none."""
        return self.certificate if is_host(self.certificate) else self.address

    def shake_hands(self) -> bool:
        """Go on with TLS's handshake; whether it is done. Raises PeerError."""
        if self._tls is None or not self.is_shaking_hands:
            return True
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.wants_write = False
            return False
        except ssl.SSLWantWriteError:
            self.wants_write = True
            return False
        except ssl.SSLCertVerificationError as error:
            raise PeerError(WRONG_CERTIFICATE, f"its certificate is refused ({error.verify_message})") from None
        except ssl.SSLError as error:
            raise _tls_fault(error) from None
        except OSError as error:
            raise PeerError(HANDSHAKE, f"no TLS connection ({error.strerror or error})") from None
        self.is_shaking_hands = self.wants_write = False
        self.certificate = certificate_name(self._tls.getpeercert())
        return True

    def read(self) -> bytes | None:
        """Return what has come, b"" at a clean end, None where there is nothing now. Raises PeerError.

        Of TLS it is a whole record (16 KiB at most). OpenSSL reads no further ahead, so the socket shows what is left.
        """
        try:
            data = self.socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            self.wants_write = False
            return None
        except ssl.SSLWantWriteError:
            self.wants_write = True
            return None
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLEOFError:
            raise PeerError("broken off", "the connection broke off") from None
        except ssl.SSLError as error:
            raise _tls_fault(error) from None
        except OSError as error:
            raise PeerError("broken off", f"the connection broke off ({error.strerror or error})") from None
        if self._is_first and data:
            self._is_first = False
            if data.startswith(_TLS_HANDSHAKE):
                raise PeerError("TLS on the plain port", "it speaks TLS, and the port is that of --tcp")
        return data

    def close(self) -> None:
        """Close it; a sender of TLS is told, as far as that goes without waiting."""
        if self._tls is not None and not self.is_shaking_hands:
            with suppress(OSError, ValueError):  # it may be gone already
                self._tls.unwrap()
        self.socket.close()


def _tls_fault(error: ssl.SSLError) -> PeerError:
    reason = (error.reason or str(error)).replace("_", " ").lower()[:_LONGEST_REASON]
    if "peer did not return a certificate" in reason:
        return PeerError(WRONG_CERTIFICATE, "it sends no certificate, and --client-ca asks for one")
    if reason in {"http request", "wrong version number", "https proxy request", "unknown protocol", "bad record type"}:
        return PeerError(NOT_TLS, "what it sends to the port of --tls is no TLS")
    return PeerError(HANDSHAKE, f"no TLS connection ({reason})")
