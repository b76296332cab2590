"""The tail and the real logrotate, in each of its ways to rotate, with the tail up and down."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.tail_rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOGROTATE = shutil.which("logrotate") or shutil.which("logrotate", path="/usr/sbin:/sbin")
pytestmark = pytest.mark.skipif(LOGROTATE is None, reason="needs logrotate (Debian, Ubuntu: apt-get install logrotate)")

WAYS = {
    "create": "create",
    "create, packed": "create\ncompress",
    "create, packed later": "create\ncompress\ndelaycompress",
    "by date": "create\ndateext\ndateformat -%Y%m%d-NUMBER",
    "by date, packed, with extension": "create\ncompress\ndateext\ndateformat -%Y%m%d-NUMBER\nextension .log",
    "copytruncate": "copytruncate",
    "copytruncate, packed": "copytruncate\ncompress",
    "xz": "create\ncompress\ncompresscmd /usr/bin/xz\nuncompresscmd /usr/bin/unxz\ncompressext .xz",
}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path) as rig:
        yield rig


def rotate(rig: Rig, way: str) -> None:
    assert LOGROTATE is not None
    config = rig.folder / "logrotate.conf"
    way = way.replace("NUMBER", str(1000 + len(list(rig.logs.iterdir()))))  # the date alone is the same for a day
    config.write_text(f"{rig.path()} {{\nrotate 99\n{way}\n}}\n", encoding="utf-8")
    config.chmod(0o644)
    command = [LOGROTATE, "--force", "--state", str(rig.folder / "logrotate.state"), str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("pattern", ["mail.log", "mail*"])
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_lost_or_doubled(rig: Rig, way: str, pattern: str) -> None:
    rig.patterns = (pattern,)
    written: list[str] = []

    def write(count: int) -> None:
        for _ in range(count):
            written.append(f"Nov 23 07:55:08 mx1 postfix/smtp[1]: line {len(written)}")
            rig.write(written[-1] + "\n")

    write(5)
    rig.run()
    for number in range(6):
        is_down = number % 2 == 1
        if is_down:
            rig.stop()
        write(3)  # not read yet when it is rotated
        rotate(rig, WAYS[way])
        write(2)
        if is_down and "copytruncate" not in way:
            write(1)
            rotate(rig, WAYS[way])  # this one comes and goes unseen
            write(2)
        rig.run(seconds=12)
        rig.run(seconds=12)
    assert rig.lines == written
    assert len(rig.topic.arrived) == len(written)
