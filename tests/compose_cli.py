"""Docker Compose itself, for `config`, which needs no engine: what is installed, or what Go builds from its module.

`python -m tests.compose_cli` (`make compose-config`) builds it where there is none (a few CPU minutes, with Go and its module
proxy) into build/docker-compose/VERSION or the folder MAILSPAN_CACHE_DIR, and reads docker-compose.yml with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.compose import FILE
from tests.running import ROOT

VERSION = "5.6.0"
_MODULE = "github.com/docker/compose/v5"
_GO_MOD = f"""module example.invalid/compose

go 1.26.0

tool {_MODULE}/cmd

require {_MODULE} v{VERSION}
"""
"""A module of its own: `go install` refuses theirs, which has exclusions. The versions of all others follow from it."""


def find() -> list[str] | None:
    """Return the command that runs Docker Compose; None where there is none."""
    for command in (["docker", "compose"], ["docker-compose"], [str(_built())]):
        if shutil.which(command[0]) is not None and _is_version_2_or_newer([*command, "version", "--short"]):
            return command
    return None


def config(command: list[str], file: Path) -> subprocess.CompletedProcess[str]:
    """Read the file with no variables set; what is wrong with it is on standard error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAILSPAN_")}
    options = ["--file", str(file), "--project-directory", str(ROOT), "--profile", "*"]
    return subprocess.run(
        [*command, *options, "config", "--quiet"], env=kept, capture_output=True, text=True, check=False, timeout=60
    )


def _built() -> Path:
    base = Path(os.environ.get("MAILSPAN_CACHE_DIR") or ROOT / "build") / "docker-compose"
    return base / VERSION / "docker-compose"


def _is_version_2_or_newer(command: list[str]) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    major = done.stdout.strip().removeprefix("v").partition(".")[0]
    return done.returncode == 0 and (major == "dev" or (major.isdecimal() and int(major) > 1))


def _build() -> None:
    target = _built()
    target.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent.parent) as work:
        (Path(work) / "go.mod").write_text(_GO_MOD, encoding="utf-8")
        environment = {**os.environ, "CGO_ENABLED": "0"}
        flags = ["-trimpath", "-ldflags", f"-s -w -X {_MODULE}/internal.Version=v{VERSION}"]
        for command in (["go", "mod", "tidy"], ["go", "build", *flags, "-o", "docker-compose", f"{_MODULE}/cmd"]):
            subprocess.run(command, cwd=work, env=environment, check=True)
        target.parent.mkdir(exist_ok=True)
        (Path(work) / "docker-compose").rename(target)


def main() -> int:
    """Build it where it is missing, and read the file; return the exit code."""
    command = find()
    if command is None:
        if shutil.which("go") is None:
            print("neither docker compose nor go is here", file=sys.stderr)
            return 1
        print(f"building docker compose {VERSION}")
        _build()
        command = find()
    if command is None:
        print("what was built does not run", file=sys.stderr)
        return 1
    done = config(command, FILE)
    print(done.stderr or f"{FILE.name}: as it should be, says {' '.join(command)}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
