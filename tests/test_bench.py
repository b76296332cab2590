"""The bench's generator: the same seed gives the same log, and its truth agrees with a plain count of its lines."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from bench.generate import Options, generate, truth_path, write
from bench.world import Truth

if TYPE_CHECKING:
    from pathlib import Path

KINDS = [
    Options(2000),
    Options(2000, hosts=3, long_queue_ids=True, time="iso"),
    Options(2000, mta="sendmail", hosts=2),
    Options(2000, mta="sendmail", time="iso"),
    Options(2000, mta="opensmtpd", hosts=2, time="iso"),
    Options(2000, mta="exim"),
]


def lines_of(options: Options) -> tuple[list[str], Truth]:
    truth = Truth()
    return list(generate(options, truth)), truth


@pytest.mark.parametrize("options", KINDS)
def test_same_seed_same_log(options: Options) -> None:
    assert lines_of(options) == lines_of(options)


def test_other_seed_other_log() -> None:
    assert lines_of(Options(200))[0] != lines_of(Options(200, seed=2))[0]


@pytest.mark.parametrize("options", KINDS)
def test_truth_counts_the_lines(options: Options) -> None:
    lines, truth = lines_of(options)
    text = "".join(lines)
    assert truth.lines == len(lines) >= options.lines
    if options.mta == "exim":
        assert truth.rejections == text.count("> rejected RCPT <")
        assert (truth.bounced, truth.deferrals) == (text.count(" ** "), text.count(" == "))
        assert truth.sent == text.count(" => ") == truth.attempts - truth.bounced - truth.deferrals
        assert truth.transactions == text.count(" <= ") == text.count(" Completed\n")
        return
    assert truth.rejections == text.count(": NOQUEUE: reject:") + text.count(" smtp failed-command ")
    attempts = text.count(": to=<") + text.count(" delivery evpid=")
    assert truth.attempts == attempts == truth.sent + truth.bounced + truth.deferrals
    sent = ("status=sent (", "stat=Sent (", ' result="Ok"', " result=Ok ")
    assert truth.sent == sum(map(text.count, sent))
    if options.mta == "opensmtpd":
        assert truth.transactions == text.count(" smtp message msgid=")
        return
    queue_ids = re.findall(r" (mx\d) [^ ]+: ([0-9A-Za-z]{10,}): ", text)
    children = re.findall(r" (mx\d) [^ ]+: [0-9A-Za-z]{10,}: ([0-9A-Za-z]{10,}): DSN", text)
    assert truth.transactions == len({*queue_ids, *children})


@pytest.mark.parametrize("options", KINDS)
def test_every_kind_of_end_occurs(options: Options) -> None:
    truth = lines_of(options)[1].as_dict()
    if options.mta == "sendmail":
        del truth["rejections"]
    assert all(truth.values())


def test_time_only_goes_on() -> None:
    stamps = [line.partition(" ")[0] for line in lines_of(Options(2000, time="iso"))[0]]
    assert stamps == sorted(stamps)
    assert stamps[-1] > "2026-03-09T06:05"


def test_a_session_has_its_process_to_itself() -> None:
    sessions = Counter[str]()
    for line in lines_of(Options(5000))[0]:
        tag, _, message = line.split(" mx1 ", 1)[1].partition(": ")
        if "smtpd[" in tag and message.startswith(("connect from", "disconnect from")):
            sessions[tag] += 1 if message.startswith("connect") else -1
            assert sessions[tag] in {0, 1}
    assert set(sessions.values()) == {0}


def test_delays_are_written_as_postfix_does() -> None:
    text = "".join(lines_of(Options(5000))[0])
    delays = list(itertools.chain(*re.findall(r", delay=([^,]+), delays=([^/]+)/([^/]+)/([^/]+)/([^,]+),", text)))
    assert delays
    assert all(re.fullmatch(r"0|[1-9]\d*|\d\.\d\d?", delay) for delay in delays)


def test_log_and_truth_are_written(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "one.log"
    truth = write(Options(100), path)
    assert len(path.read_text(encoding="utf-8").splitlines()) == truth.lines
    assert json.loads(truth_path(path).read_text(encoding="utf-8")) == truth.as_dict()
    assert sorted(one.name for one in path.parent.iterdir()) == ["one.log", "one.log.json"]
