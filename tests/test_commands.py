"""The commands as a user meets them: exit codes, messages, and parse against index and search."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from mailspan.canary import CANARY_NAME, Canary, encode_canary, find_canary
from mailspan.commands.host_name import own_name
from tests.running import ROOT, mailspan, mailspan_here

CORPUS = ROOT / "tests" / "corpus"
EDGE = CORPUS / "edge1.mail.log"
READING = ("--zone", "UTC", "--year", "2026")


def documents_of(output: bytes) -> dict[str, bytes]:
    return {orjson.loads(line)["id"]: line for line in output.splitlines()}


def test_the_original_session(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mail.db"
    sample = str(ROOT / "samples" / "original.mail.log")
    assert mailspan("index", "--store", store, sample, zone="Europe/Madrid").returncode == 0
    flags = ("-f", "bob@foo.com", "-d", "2011-12-15 00:00:00", "-D", "2011-12-17 00:00:00", "-h", "smtp", "-r", "10")
    found = mailspan("search", "--store", store, *flags, zone="Europe/Madrid")
    assert found.returncode == 0
    assert found.stdout.decode().splitlines()[:7] == [
        "transaction: pBFERI8l019936",
        "client: bob.desktop [10.10.10.10]",
        "from:   bob@foo.com",
        "msgid:  20111215142718.GD23530@smtp.foo.com",
        "date:   2011-12-15 15:27:19",
        "to:     recipient='alice@bar.com', relay='smtp.bar.com', status='Sent (Ok: queued as 5298B228B8B)'",
        "host:   smtp",
    ]


def test_parse_equals_index_and_search(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mail.db"
    parsed = documents_of(mailspan("parse", *READING, str(EDGE)).stdout)
    for _ in range(2):
        assert mailspan("index", "--store", store, *READING, str(EDGE)).returncode == 0
        found = mailspan("search", "--store", store, "--json", "--probes", "-r", "100000", "-h", "edge1")
        assert documents_of(found.stdout) == parsed


def test_a_log_that_grows_gives_the_same_documents(tmp_path: Path) -> None:
    store, log = f"sqlite:///{tmp_path}/mail.db", tmp_path / "mail.log"
    raw = EDGE.read_bytes()
    for part in (raw[: len(raw) // 3], raw[: len(raw) // 2], raw):  # cut inside lines
        log.write_bytes(part)
        assert mailspan("index", "--store", store, *READING, str(log)).returncode == 0
    found = mailspan("search", "--store", store, "--json", "--probes", "-r", "100000", "-h", "edge1")
    assert documents_of(found.stdout) == documents_of(mailspan("parse", *READING, str(EDGE)).stdout)


def test_order_compression_and_copies_do_not_matter(tmp_path: Path) -> None:
    other = CORPUS / "relay.mail.log"
    packed = tmp_path / "old.gz"
    packed.write_bytes(gzip.compress(other.read_bytes()))
    one = documents_of(mailspan("parse", *READING, str(EDGE), str(other)).stdout)
    two = documents_of(mailspan("parse", *READING, str(packed), str(EDGE), str(other)).stdout)
    assert one == two


def test_the_stats_balance_and_nothing_with_an_id_is_unparsed() -> None:
    for name in ("edge1.mail.log", "edge2.mail.log", "relay.mail.log", "bulk1.mail.log.xz", "relay2.mail.log.xz"):
        done = mailspan("parse", "--stats", *READING, str(CORPUS / name))
        balance = done.stderr.decode().splitlines()[-1]
        counts = {key: int(value) for key, value in (item.split("=") for item in balance.split())}
        assert counts["lines"] == counts["applied"] + counts["ignored"] + counts["unparsed"]
        assert counts["lines"] > 100
        assert counts["unparsed"] == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("parse", "missing.log"), 3, "missing.log: no such file"),
        (("parse", "--zone", "Nowhere/Land", "x"), 2, "no such zone"),
        (("parse", "--year", "11", "x"), 2, "expected a year"),
        (("search", "-h"), 2, "--help"),
        (("search", "--store", "sqlite:////nonexistent/mail.db", "-i", "B6D781149FE"), 3, "mailspan index"),
        (("traces", "B6D781149FE"), 2, "no such command"),
        (("search", ""), 2, "TERM '': expected a value"),
        (("trace", ""), 2, "ID '': expected a value"),
        (("explain", " "), 2, "ID ' ': expected a value"),
        (("parse", "--log-host", "caf\udce9", "x"), 2, "--log-host 'caf\\udce9': expected UTF-8"),
    ],
)
def test_mistakes_get_one_clear_line(arguments: tuple[str, ...], status: int, said: str) -> None:
    done = mailspan(*arguments)
    assert done.returncode == status
    assert said in done.stderr.decode()
    assert len(done.stderr.decode().splitlines()) == 1


def test_a_machine_may_have_a_name_that_is_no_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: os.fsdecode(b"caf\xe9"))
    log = tmp_path / "mainlog"
    log.write_text(
        "2026-11-23 10:00:00 1xVOtL-00001x-06 <= a@example.com H=x [192.0.2.1] P=esmtp S=3 id=x@example.com\n"
    )
    done = mailspan_here(capsys, "parse", "--zone", "UTC", str(log))
    assert (done.status, orjson.loads(done.output)["host"]) == (0, "caf\ufffd")
    canary = Canary(1, own_name(), "tail")
    assert find_canary([(CANARY_NAME, encode_canary(canary))]) == canary


def test_behind_two_dashes_nothing_is_a_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, log = f"sqlite:///{tmp_path}/mail.db", tmp_path / "mainlog"
    log.write_text("2026-11-23 10:00:00 1xVOtL-00001x-06 <= -a@example.com U=x P=local S=3 id=-x@example.com\n")
    settings_file = tmp_path / "search"
    settings_file.write_text("")
    assert mailspan_here(capsys, "index", "--zone", "UTC", "--store", store, "--", str(log)).status == 0
    for term in ("-x@example.com", "-a@example.com"):
        done = mailspan_here(capsys, "--config", str(settings_file), "search", "--store", store, "--count", "--", term)
        assert (done.status, done.output) == (0, "1\n")


def test_a_missing_file_does_not_stop_the_others() -> None:
    done = mailspan("parse", *READING, "missing.log", str(EDGE))
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) > 100


def test_a_closed_pipe_is_silent() -> None:
    command = f"{sys.executable} -m mailspan parse {' '.join(READING)} tests/corpus/edge1.mail.log | head -n 1"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False, cwd=ROOT, timeout=60)
    assert done.stderr == b""
    assert done.stdout.startswith(b'{"id":')


def test_closed_output_is_as_silent(tmp_path: Path) -> None:
    store = f"--store sqlite:///{tmp_path}/mail.db"
    log = "--zone Europe/Madrid samples/original.mail.log"
    for command in (
        f"index {store} {log} >&-",
        f"parse {log} >&-",
        f"search {store} >&- 2>&-",
        f"search {store} <&- >&-",
    ):
        shell = f"{sys.executable} -m mailspan {command}"
        done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, check=False, cwd=ROOT, timeout=60)
        assert (done.returncode, done.stderr) == (0, b""), command


def test_errors_that_cannot_be_said_have_their_exit_code() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "mailspan", "parse", "missing.log"]
        assert subprocess.run(command, stderr=full, check=False, cwd=ROOT, timeout=60).returncode == 3


def test_a_locale_without_the_letters_of_a_name(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/żółw.db"
    sample = str(ROOT / "samples" / "original.mail.log")
    done = mailspan("index", "--store", store, sample, zone="Europe/Madrid", others={"PYTHONIOENCODING": "latin-1"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"\\u017c\xf3\\u0142w.db\n")


def test_standard_input_and_an_empty_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.log"
    empty.write_bytes(b"")
    done = mailspan("parse", *READING, "-", str(empty), given=EDGE.read_bytes())
    assert done.returncode == 0
    assert documents_of(done.stdout) == documents_of(mailspan("parse", *READING, str(EDGE)).stdout)


def test_new_and_changed_documents_of_one_second_in_one_commit(tmp_path: Path) -> None:
    """A changed document keeps its place in the store; a new one of the same second must not take it."""
    store, log = f"sqlite:///{tmp_path}/mail.db", tmp_path / "mail.log"
    head = "Nov 23 07:55:08 mx1 postfix/"
    old = [f"{head}smtpd[1]: AAAAAAAAA{n}: client=a.example.com[192.0.2.1]\n" for n in range(3)]
    new = [f"{head}smtpd[1]: BBBBBBBBB{n}: client=a.example.com[192.0.2.1]\n" for n in range(3)]
    changed = [f"{head}qmgr[2]: AAAAAAAAA{n}: removed\n" for n in range(3)]
    log.write_text("".join(old), encoding="utf-8")
    assert mailspan("index", "--store", store, *READING, str(log)).returncode == 0
    log.write_text("".join([*old, *new, *changed]), encoding="utf-8")
    done = mailspan("index", "--store", store, *READING, str(log))
    assert done.returncode == 0, done.stderr
    found = mailspan("search", "--store", store, "--json", "-h", "mx1")
    assert documents_of(found.stdout) == documents_of(mailspan("parse", *READING, str(log)).stdout)
