"""`make screenshots`: the page of the help desk over the lab corpora, to be looked at.

Each page at 1280 and 390 pixels, light and dark, into build/screenshots (or the folder that is given).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests import browser
from tests.running import ROOT
from tests.web_page import served

LOGS = (
    "edge1.mail.log",
    "edge2.mail.log",
    "relay.mail.log",
    "relay2.mail.log.xz",
    "store.exim-mainlog",
    "osm.mail.log",
)
PAGES = {
    "form": "/",
    "results": "/?to=%40store.lab.test&since=2026-11-23&outcome=bounced&number=20",
    "transaction": "/transaction?id=3B350114A30",
    "trace": "/trace?id=6AN7tA1k000072",
    "explanation": "/explain?id=AC690114A4A",
}
_MOST_HEIGHT = 2400


def main(folder: Path) -> int:
    """Make all pictures; return 0, or 3 where there is no browser."""
    if reason := browser.why_not():
        sys.stderr.write(f"screenshots: {reason}\n")
        return 3
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        store = f"sqlite:///{work}/mail.db"
        logs = [str(ROOT / "tests" / "corpus" / each) for each in LOGS]
        command = [sys.executable, "-m", "mailspan", "index", "--store", store, "--zone", "UTC", "--year", "2026"]
        subprocess.run([*command, "--log-host", "store", *logs], check=True, cwd=ROOT)
        with served(store, work, WEB_ZONE="Europe/Madrid") as page, browser.running(work) as window:
            for width in (1280, 390):
                for colours in ("light", "dark"):
                    window.look(width=width, dark=colours == "dark")
                    for title, path in PAGES.items():
                        window.open(page.url + path)
                        picture = folder / f"{title}-{width}-{colours}.png"
                        picture.write_bytes(window.picture(most_height=_MOST_HEIGHT))
                        print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "screenshots"))
