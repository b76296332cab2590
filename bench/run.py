"""What reading a log costs: `python -m bench.run` (`make bench`).

Makes a log (or takes the one it made before), lets `mailspan parse` find exactly the mail that was put into it, then
measures each program as a child process, in turns, so that a busy machine is unfair to none. CPU time is the figure to
trust; wall time depends on what else runs. Each program reads the same file in the same run, so that the ratios hold
on any machine. The first row is a bare Python loop over the lines. The peers are Debian packages: pflogsumm, which only
sums, and exigrep, which joins the lines of each mail of an Exim log and prints those of the mails that are asked for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import compiled
from bench.generate import YEAR, add_options, options_of, truth_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FOLDER = Path("build/bench")
MAKERS = frozenset({"generate", "world", "postfix_server", "sendmail_server", "exim_server", "opensmtpd_server"})
LOOP = "import sys\nfor line in open(sys.argv[1], encoding='utf-8', errors='surrogateescape'): pass"
GOAL_MICROSECONDS = 3.5
ACCEPTED_RATIO = 0.5
READING = ("--zone", "UTC", "--year", str(YEAR))
NOBODY = "nobody-is-called-so"  # what exigrep looks for
MAXRSS_UNITS_PER_MIB = 1024 * 1024 if sys.platform == "darwin" else 1024
REFERENCE, PARSE, INDEX, COMPILED = "python: for line", "mailspan parse", "mailspan index", "parse, compiled"
PFLOGSUMM, EXIGREP = "pflogsumm", "exigrep"
PEERS = {"postfix": (PFLOGSUMM, ("pflogsumm",), "pflogsumm"), "exim": (EXIGREP, ("exigrep", NOBODY), "exim4-base")}
"""By MTA: the peer, its command, and the Debian package that has it."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a program took."""

    cpu_seconds: float
    wall_seconds: float
    peak_mib: float


@dataclass(slots=True)
class Row:
    """A program, the file that it writes and that is removed before each run, and its runs."""

    name: str
    command: Sequence[str]
    writes: Path | None = None
    runs: list[Run] = field(default_factory=list)

    def cpu(self, lines: int) -> tuple[float, float]:
        """Return the least and the median CPU time in microseconds per line."""
        each = [run.cpu_seconds / lines * 1e6 for run in self.runs]
        return min(each), statistics.median(each)


def measure(command: Sequence[str]) -> Run:
    """Run a program to its end, its output thrown away; raises SystemExit with its errors when it fails."""
    with tempfile.TemporaryFile() as errors:
        begin = time.perf_counter()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)  # wait4 has reaped it: Popen must not wait
        if child.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)}: exit {child.returncode}\n{errors.read().decode(errors='replace')}")
    return Run(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / MAXRSS_UNITS_PER_MIB)


def mailspan() -> str:
    """Return the command installed beside this Python."""
    return str(Path(sysconfig.get_path("scripts"), "mailspan"))


def make_log(called: argparse.Namespace) -> Path:
    """Return the log that the options describe, made by a child process unless it is there already."""
    options = options_of(called)
    sources = sorted(Path(__file__).parent.glob("*.py"))
    made_of = repr(options).encode() + b"".join(source.read_bytes() for source in sources if source.stem in MAKERS)
    path = FOLDER / f"{options.mta}-{options.lines}-{hashlib.sha256(made_of).hexdigest()[:12]}.log"
    if not path.exists():
        arguments = [
            f"--{key.replace('_', '-')}={getattr(called, key)}" for key in ("lines", "mta", "hosts", "time", "seed")
        ]
        arguments += ["--long-qid"] if called.long_qid else []
        print(f"making {path}")
        # Not in this process: a child's peak memory begins with its parent's.
        subprocess.run(
            [sys.executable, "-m", "bench.generate", str(path), *arguments], check=True, stdout=subprocess.DEVNULL
        )
    return path


def count_documents(log: Path) -> dict[str, int]:
    """Return what `mailspan parse` finds in the log, under the truth's names."""
    found = {"transactions": 0, "attempts": 0, "sent": 0, "rejections": 0}
    command = [mailspan(), "parse", *READING, str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        for line in child.stdout or ():
            document = json.loads(line)
            if document["kind"] == "rejection":
                found["rejections"] += 1
            elif document["kind"] == "transaction":
                found["transactions"] += document["page"] == 0
                found["attempts"] += document["attempt_count"] if document["page"] == 0 else 0
                found["sent"] += sum(entry["outcome"] in {"delivered", "relayed"} for entry in document["to"])
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {child.returncode}")
    return found


def verify(log: Path, truth: Mapping[str, int]) -> bool:
    """Say whether `mailspan parse` finds exactly what was put into the log."""
    right = True
    for name, count in count_documents(log).items():
        right = right and count == truth[name]
        print(f"{'OK' if count == truth[name] else 'FAIL':4} {name}: {count:,} of {truth[name]:,}")
    return right


def rows_for(log: Path, mta: str) -> list[Row]:
    """Return the programs to measure, and say which are missing."""
    store = FOLDER / "index.sqlite"
    rows = [
        Row(REFERENCE, [sys.executable, "-c", LOOP, str(log)]),
        Row(PARSE, [mailspan(), "parse", *READING, str(log)]),
        Row(INDEX, [mailspan(), "index", "--store", f"sqlite:///{store}", *READING, str(log)], store),
    ]
    if compiled.is_current():
        # -P: the folder this runs in holds the plain source, and must not come first
        python = ["env", f"PYTHONPATH={compiled.FOLDER.resolve()}", sys.executable, "-P", "-m", "mailspan"]
        rows.append(Row(COMPILED, [*python, "parse", *READING, str(log)]))
    else:
        print("no compiled core of this source (make compiled): left out")
    if mta not in PEERS:
        print(f"no peer reads {mta} logs: left out")
        return rows
    name, (program, *arguments), package = PEERS[mta]
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        print(f"{name} is not installed (Debian, Ubuntu: apt-get install {package}): left out")
    else:
        rows.append(Row(name, [path, *arguments, str(log)]))
    return rows


def run_rounds(rows: Sequence[Row], rounds: int) -> None:
    """Run each program once a round, in turns."""
    for _ in range(rounds):
        for row in rows:
            if row.writes is not None:
                for left in FOLDER.glob(row.writes.name + "*"):
                    left.unlink()
            row.runs.append(measure(row.command))


def print_table(rows: Sequence[Row], lines: int) -> None:
    """Print what the runs took, and the ratios of the median CPU times."""
    medians = {row.name: row.cpu(lines)[1] for row in rows}
    peer = next((name for name, *_ in PEERS.values() if name in medians), "peer")
    head = f"{'':18}{'CPU µs per line':>17}{'klines/s wall':>15}{'peak RSS':>10}{'ratio of CPU to':>22}"
    print(f"\n{head}\n{'':18}{'min':>8}{'median':>9}{'median':>15}{'MiB':>10}{'the loop':>11}{peer:>11}")
    for row in rows:
        least, median = row.cpu(lines)
        rate = lines / statistics.median(run.wall_seconds for run in row.runs) / 1000
        peak = max(run.peak_mib for run in row.runs)
        to_loop = f"{median / medians[REFERENCE]:.1f}"
        to_peer = f"{median / medians[peer]:.2f}" if peer in medians else "-"
        print(f"{row.name:18}{least:8.2f}{median:9.2f}{rate:15,.0f}{peak:10.0f}{to_loop:>11}{to_peer:>11}")
    parse = medians[PARSE]
    print(f"\n{_mark(parse <= GOAL_MICROSECONDS)}: goal, parse at {GOAL_MICROSECONDS} µs per line or less")
    if PFLOGSUMM in medians:
        met = parse <= ACCEPTED_RATIO * medians[PFLOGSUMM]
        print(f"{_mark(met)}: accepted, parse at {ACCEPTED_RATIO} of pflogsumm's CPU time or less")


def _mark(met: bool) -> str:  # noqa: FBT001 - one Boolean, one word for it
    return "met" if met else "not met"


def profile(log: Path) -> None:
    """Print where `mailspan parse` spends its time; the profiler itself slows it several times."""
    record = FOLDER / "parse.prof"
    command = [sys.executable, "-m", "cProfile", "-o", str(record), mailspan(), "parse", *READING, str(log)]
    measure(command)
    script = "import pstats, sys; pstats.Stats(sys.argv[1]).strip_dirs().sort_stats('tottime').print_stats(30)"
    subprocess.run([sys.executable, "-c", script, str(record)], check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the log, verify, measure, print. Exit code 1 when the mail found is not the mail put in."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each program")
    parser.add_argument("--profile", action="store_true", help="profile parse instead of measuring")
    called = parser.parse_args(arguments)
    log = make_log(called)
    truth = json.loads(truth_path(log).read_text(encoding="utf-8"))
    lines = truth["lines"]
    size = log.stat().st_size / 2**20
    print(f"{lines:,} lines, {size:.0f} MiB, {lines / truth['transactions']:.1f} lines a mail; {called.rounds} rounds")
    if called.profile:
        profile(log)
        return 0
    right = verify(log, truth)
    rows = rows_for(log, called.mta)
    run_rounds(rows, max(1, called.rounds))
    print_table(rows, lines)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
