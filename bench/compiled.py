"""Builds the optional compiled core: `python -m bench.compiled` (`make compiled`); needs gcc and Python's headers.

A copy of the packages in build/compiled, its hot modules compiled by mypyc from the same source, unchanged. The plain
source stays the truth and the installation is not touched: run the copy with `PYTHONPATH=build/compiled python -P -m
mailspan …`. With --test all fast tests run against it (docs/adr/0012). What defines structs that are decoded (events,
records, transactions, sessions) is not compiled: mypyc leaves no types on their fields.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOLDER = Path("build/compiled")
PACKAGES = ("mailspan", "producers", "reducer", "sink", "search")
FOR_TESTS = ("tests", "bench", "samples", "docs", "requirements")
FILES_FOR_TESTS = ("pyproject.toml", "Makefile", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
MODULES = (
    *(f"mailspan/{name}.py" for name in ("address", "reply", "queue_id", "event_time")),
    *(f"mailspan/{name}.py" for name in ("document", "roll_ups", "links", "deliveries", "recipients")),
    *(f"mailspan/grammar/{name}.py" for name in ("__init__", "kind", "syslog", "postfix_read", "sendmail_read")),
    *(f"mailspan/grammar/{name}.py" for name in ("exim_read", "exim_fields", "exim_lines")),
    *(f"mailspan/grammar/{name}.py" for name in ("opensmtpd", "opensmtpd_read")),
    *(f"reducer/{name}.py" for name in ("assembler", "belonging", "effects", "forgetting", "gaps", "host")),
    *(f"reducer/{name}.py" for name in ("lifetime", "rejections")),
)
NOT_REACHED = "not packing_is_not_tried_for_each"
"""A test that puts a counter in a function's place: compiled code does not look there."""

SETUP = """
import sys
from mypyc.build import mypycify
from setuptools import setup
modules = sys.argv[1:]
sys.argv[1:] = ["--quiet", "build_ext", "--inplace"]
setup(name="mailspan-compiled", packages=[], ext_modules=mypycify(modules, opt_level="3"))
"""


def sources() -> Iterator[Path]:
    """Yield every source file of the packages."""
    for package in PACKAGES:
        yield from sorted(Path(package).rglob("*.py"))


def is_current() -> bool:
    """Whether there is a compiled copy of just these sources."""
    copies = ((path, FOLDER / path) for path in sources())
    return (FOLDER / "built").exists() and all(
        copy.exists() and copy.read_bytes() == path.read_bytes() for path, copy in copies
    )


def build() -> int:
    """Copy and compile; return the exit code."""
    compiler = os.environ.get("CC", "gcc").split()[0]
    if shutil.which(compiler) is None:
        print(f"{compiler} is not installed (Debian, Ubuntu: apt-get install gcc python3-dev)", file=sys.stderr)
        return 1
    shutil.rmtree(FOLDER, ignore_errors=True)
    for package in PACKAGES:
        shutil.copytree(package, FOLDER / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", SETUP, *MODULES]
    code = subprocess.run(command, cwd=FOLDER, env=environment(), check=False).returncode
    if code:
        print("not built; where Python.h is missing: apt-get install python3-dev", file=sys.stderr)
        return code
    (FOLDER / "built").touch()
    print(f"compiled {len(MODULES)} modules into {FOLDER}")
    return 0


def environment() -> dict[str, str]:
    """Return the environment in which Python finds the compiled copy first."""
    return {**os.environ, "PYTHONPATH": str(FOLDER.resolve())}


def test() -> int:
    """Run the fast tests against the compiled copy."""
    for name in FOR_TESTS:
        shutil.copytree(name, FOLDER / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES_FOR_TESTS:
        shutil.copy(name, FOLDER / name)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-k", NOT_REACHED]
    return subprocess.run(command, cwd=FOLDER, env=environment(), check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Build unless it is current; test where asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench.compiled", description=__doc__)
    parser.add_argument("--test", action="store_true", help="run the fast tests against it")
    called = parser.parse_args(arguments)
    code = 0 if is_current() else build()
    return code or (test() if called.test else 0)


if __name__ == "__main__":
    sys.exit(main())
