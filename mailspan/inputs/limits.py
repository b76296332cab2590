"""The limit of open files, raised as far as the system lets us: logs that overlap in time are open together."""

from __future__ import annotations

import resource


def allow_open_files() -> None:
    """Raise the soft limit to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
