"""Runs the fuzzer: `python -m tests.fuzz [--inputs N] [--seed S] [--jobs N] [--deep N] [--replay FILE]`.

All lines go through the parser, those of every `--deep`th block through the assembler, the documents and the output,
too. What fails is made small and written to build/fuzz; `--replay` checks such a file again. Exit code 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import secrets
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz.checks import Broken, check_documents, check_doubled, check_lines, check_without_year
from tests.fuzz.lines import BLOCK_LINES, Source, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILURES = Path("build/fuzz")
MOST_FAILURES = 20
SMALLER_SECONDS = 60
REPORT_SECONDS = 60
HANG_SECONDS = 20  # of CPU, for a block


def _hang(_signal: int, _frame: object) -> None:
    raise Broken(f"more than {HANG_SECONDS} s of CPU")


def check(lines: list[str], seed: str, *, deep: bool) -> int:
    """Check one block; return how many documents came of it. Raises whatever is wrong."""
    signal.signal(signal.SIGVTALRM, _hang)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_SECONDS)
    try:
        return _check(lines, seed, deep=deep)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _check(lines: list[str], seed: str, *, deep: bool) -> int:
    raw = encode(lines)
    results = check_lines(raw)
    if not deep:
        return 0
    check_without_year(raw)
    check_doubled(raw)
    return check_documents(results, len(results), seed)


def failure_of(lines: list[str], seed: str, *, deep: bool) -> str | None:
    """Return what is wrong with a block, None if nothing is."""
    try:
        check(lines, seed, deep=deep)
    except Broken as broken:
        return f"Broken: {broken}"
    except Exception:  # noqa: BLE001  anything that the code under test raises is a finding
        return traceback.format_exc()
    return None


def make_smaller(lines: list[str], seed: str, *, deep: bool) -> list[str]:
    """Leave out lines, in ever smaller runs, as long as something is still wrong."""
    end = time.monotonic() + SMALLER_SECONDS
    size = len(lines) // 2
    while size and time.monotonic() < end:
        at = 0
        while at < len(lines) and time.monotonic() < end:
            fewer = lines[:at] + lines[at + size :]
            if fewer and failure_of(fewer, seed, deep=deep) is not None:
                lines = fewer
            else:
                at += size
        size //= 2
    return lines


def write_failure(lines: list[str], seed: str, *, deep: bool) -> Path:
    """Write a failing block, made small, to a file for --replay."""
    lines = make_smaller(lines, seed, deep=deep)
    FAILURES.mkdir(parents=True, exist_ok=True)
    path = FAILURES / f"{seed.replace(':', '-')}.json"
    found = {"seed": seed, "deep": deep, "failure": failure_of(lines, seed, deep=deep), "lines": lines}
    path.write_text(json.dumps(found, indent=1), "utf-8")
    return path


def run(seed: int, first: int, step: int, inputs: int, deep_every: int) -> tuple[int, int, int]:
    """Check every `step`th block from `first` on; return the numbers of lines, documents and failures."""
    source = Source()
    lines_done = documents_done = failures = 0
    report_at = time.monotonic() + REPORT_SECONDS
    for number in range(first, -(-inputs // BLOCK_LINES), step):
        name = f"{seed}:{number}"
        lines = source.block(name)
        deep = number % deep_every == 0
        try:
            documents_done += check(lines, name, deep=deep)
        except Exception as error:  # noqa: BLE001  anything that the code under test raises is a finding
            failures += 1
            path = write_failure(lines, name, deep=deep)
            print(f"failed: {path}: {type(error).__name__}: {str(error)[:300]}", flush=True)
            if failures >= MOST_FAILURES:
                break
        lines_done += len(lines)
        if time.monotonic() >= report_at:
            report_at = time.monotonic() + REPORT_SECONDS
            print(f"{lines_done} lines, {documents_done} documents, {failures} failures", flush=True)
    return lines_done, documents_done, failures


def replay(path: Path) -> int:
    """Check the lines of a file again."""
    found = json.loads(path.read_text("utf-8"))
    failure = failure_of(found["lines"], found["seed"], deep=found["deep"])
    print(failure or "nothing is wrong any more")
    return 0 if failure is None else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the rate, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=200_000, metavar="N", help="how many lines (default: 200000)")
    parser.add_argument("--seed", type=int, help="the same seed makes the same lines (default: another each time)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many processes (default: 1)")
    parser.add_argument(
        "--deep", type=int, default=10, metavar="N", help="every Nth block goes all the way (default: 10)"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="check a failure again")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        return replay(options.replay)
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    begin = time.monotonic()
    shares = [(seed, job, options.jobs, options.inputs, options.deep) for job in range(options.jobs)]
    if options.jobs == 1:
        parts = [run(*shares[0])]
    else:
        with multiprocessing.Pool(options.jobs) as pool:
            parts = pool.starmap(run, shares)
    lines, found, failures = (sum(column) for column in zip(*parts, strict=True))
    seconds = time.monotonic() - begin
    print(f"{lines} lines, {found} documents, {failures} failures, {lines / seconds:.0f} lines/s, seed {seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
