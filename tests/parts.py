"""Every test, in three processes side by side: `python -m tests.parts` (`make test`), with what pytest takes.

Tests that use real servers mostly wait for them: those of Elasticsearch, those of Kafka alone, and the rest, which
computes, do not hold each other up. The live run of all stages, which waits the most, goes with those of Kafka. Each part
has servers of its own. Exit code 1 if any part failed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests import elasticsearch_server, kafka_server
from tests.jars import ServerError, jars

PARTS = {
    "elasticsearch": "elasticsearch and not live",
    "kafka": "live or (kafka and not elasticsearch)",
    "the rest": "not kafka and not elasticsearch",
}
_NO_TESTS = 5  # pytest's exit code where ARGS chose none of a part
_LOOK_SECONDS = 0.2


def fetch() -> None:
    """Fetch the servers' jars before several processes want them at once. Raises ServerError."""
    jars("kafka", kafka_server.VERSION, kafka_server.ARTIFACTS)
    jars("elasticsearch", elasticsearch_server.VERSION, elasticsearch_server.ARTIFACTS)


def main(arguments: list[str]) -> int:
    """Run all parts, and print what each said as it ends."""
    try:
        fetch()
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        running: dict[str, subprocess.Popen[bytes]] = {}
        for part, chosen in PARTS.items():
            said = stack.enter_context((Path(name) / part).open("wb"))
            command = [sys.executable, "-m", "pytest", "-m", chosen, *arguments]
            running[part] = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        codes: dict[str, int] = {}
        try:
            while running:
                time.sleep(_LOOK_SECONDS)
                for part in [part for part, process in running.items() if process.poll() is not None]:
                    codes[part] = running.pop(part).wait()
                    sys.stdout.write((Path(name) / part).read_text(encoding="utf-8", errors="replace"))
                    print(f"== {part}: {'passed' if codes[part] in {0, _NO_TESTS} else 'FAILED'}", flush=True)
        finally:
            for process in running.values():
                process.terminate()
                process.wait()
    return int(any(code not in {0, _NO_TESTS} for code in codes.values()) or set(codes.values()) == {_NO_TESTS})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
