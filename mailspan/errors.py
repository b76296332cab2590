"""The errors a command ends with: one small tree, each with its exit code.

A message says what failed, where, and what to do, in one line: the command line prints it after
`mailspan: ` and exits with `exit_code`. Bad log lines are not errors; they are counted as data and
never raise one of these.
"""

from __future__ import annotations


class MailspanError(Exception):
    """Something outside the program failed; the command cannot go on (exit 3)."""

    exit_code = 3


class UsageError(MailspanError):
    """The command line asks for something that cannot be; the message names flag, value and what is expected."""

    exit_code = 2


class StoreError(MailspanError):
    """A store cannot be opened, read or written; the message names its path."""

    exit_code = 3
