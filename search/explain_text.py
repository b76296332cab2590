"""An explanation in plain words, safe for a terminal: every value of a log goes through `sanitise`. Pure.

Up to ten recipients are told one by one; of more, those to whom the same happened are one line with examples.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from mailspan.deliveries import FIRST_ATTEMPTS, LAST_ATTEMPTS
from mailspan.terminal import sanitise
from search.filters import filter_text
from search.times import in_zone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo

    from search.explain import Explanation, Failure, Group, Story

_ONE_BY_ONE = 10
_MOST_GROUPS = 20
_MOST_LINKS = 10
_MOST_FILTERS = 10
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_MOST_WORDS = 300

_ENDS = {
    "delivered": "delivered",
    "relayed": "handed on",
    "expanded": "replaced by the addresses it stands for",
    "discarded": "thrown away on purpose",
    "queued": "no attempt yet",
    "held": "held by the server",
    "deferred": "still waiting for the next attempt",
    "unknown": "the log does not say how it ended",
    "aborted": "the client went away before the mail was whole",
    "rejected": "refused",
    "expired": "given up: the time in the queue was over",
    "bounced": "returned to the sender",
}
_STAGES = {
    "connect": "when it connected",
    "helo": "at its HELO",
    "auth": "when it logged in",
    "mail": "at the sender",
    "rcpt": "at the recipient",
    "data": "before the message",
    "end_of_data": "after the whole message",
}
_LINKS = {
    "next": "It went on as {}.",
    "bounce": "The sender was told of the failure in {}.",
    "bounce_of": "It is the notice of failure of {}.",
    "delay_notice": "The sender was told of the delay in {}.",
    "receipt": "The sender was sent a receipt in {}.",
    "requeued_as": "It was queued again as {}.",
    "requeued_from": "It was queued again; before it was {}.",
    "clone": "Other recipients of it went on in {}.",
    "clone_of": "It was split from {}.",
    "forwarded_as": "It was forwarded as {}.",
    "original": "Before it came here it was {}.",
}


class Line(NamedTuple):
    """One line, and what it belongs to: the line before it with less depth."""

    depth: int
    text: str


def explain_text(found: Explanation, zone: tzinfo | None = None) -> str:
    """Return the words, one sentence or recipient a line; `zone` None is the machine's."""
    return "".join(f"{'  ' * line.depth}{line.text}\n" for line in explain_lines(found, zone))


def explain_lines(found: Explanation, zone: tzinfo | None = None) -> Iterator[Line]:
    """Yield the lines of `explain_text`, each with its depth; the first is a heading."""
    yield Line(0, f"{_safe(found.queue_id or 'NOQUEUE')} on {_safe(found.host)} ({_safe(found.mta)})")
    yield Line(1, _beginning(found, zone))
    if not found.recipients:
        yield Line(1, f"No recipient is in the log: {_ENDS.get(found.outcome, _safe(found.outcome))}.")
    elif len(found.recipients) <= _ONE_BY_ONE:
        for story in found.recipients:
            yield Line(1, f"{_name(story)}: {_story(found, story)}")
            # That time is up are no words of a server.
            for failure in [each for each in story.failures if each.outcome != "expired" and each.status][-1:]:
                yield Line(2, f"last words: {_cut(failure.status)}")
    else:
        yield Line(1, f"{len(found.recipients)} recipients:")
        for group in found.groups[:_MOST_GROUPS]:
            yield Line(2, _group(group))
        if len(found.groups) > _MOST_GROUPS:
            rest = found.groups[_MOST_GROUPS:]
            yield Line(2, f"{sum(each.count for each in rest)} others, in {len(rest)} more ways (--json has all)")
    if found.missing_pages:
        yield Line(1, f"{found.missing_pages} more pages of recipients are not in the store.")
    for row in found.filters[:_MOST_FILTERS]:
        yield Line(1, f"Filter {filter_text(row)}")
    if len(found.filters) > _MOST_FILTERS:
        yield Line(1, f"{len(found.filters) - _MOST_FILTERS} more lines of filters (--json has all).")
    yield from _after(found)


def _beginning(found: Explanation, zone: tzinfo | None) -> str:
    when = _time(found.date, zone)
    if found.kind == "mailbox":
        return f"A mail was handed over for a mailbox on {when}."
    client = f"by {_safe(found.client)}" if found.client else _no_client(found)
    if found.kind == "rejection":
        stage = _STAGES.get(found.stage or "", "")
        again = f"; the same {found.repeat_count} times more in that second" if found.repeat_count else ""
        kind = "for now" if found.temporary else "for good"
        who = _safe(found.client) if found.client else "A client"
        sender = f", mail {_sender(found)}" if found.sender is not None else ""
        return f"{who} was refused {stage} {kind} on {when}{sender}{again}.".replace("  ", " ")
    size = f", {found.size} bytes" if found.size is not None else ""
    login = f", logged in as {_safe(found.sasl_username)}" if found.sasl_username else ""
    kind = "An address check" if found.kind == "probe" else "A mail"
    return f"{kind} {_sender(found)} was handed in {client}{login} on {when}{size}."


def _no_client(found: Explanation) -> str:
    if any(link["kind"] == "bounce_of" for link in found.links):
        return "by the server itself"
    return "by someone whom the log does not name"


def _sender(found: Explanation) -> str:
    if found.sender is None:
        return "from a sender that the log does not name"
    return f"from {_safe(found.sender)}" if found.sender else "from <> (a notice, which is never answered)"


def _story(found: Explanation, story: Story) -> str:
    said = [_failure(each) for each in story.failures]
    if story.failures and story.failures[-1].outcome == story.outcome:
        if story.outcome == "deferred":
            said.append(_ENDS["deferred"] if found.state == "open" else "the log ends here")
    else:
        said.append(_end(story, found))
    if len(found.recipients) == 1 and story.attempts < found.attempt_count:
        said.append(f"of {found.attempt_count} attempts the record keeps {story.attempts}")
    elif _may_have_more(story, found):
        said.append(f"the record keeps the first {FIRST_ATTEMPTS} attempts and the last {LAST_ATTEMPTS}")
    return "; ".join(said)


def _end(story: Story, found: Explanation) -> str:
    words = _ENDS.get(story.outcome, _safe(story.outcome))
    if story.outcome in {"delivered", "relayed"}:
        if story.outcome == "relayed" and story.relay:
            words += f" to {_safe(story.relay)}"
        if story.mailbox:
            words += f" to mailbox {_safe(story.mailbox)}"
        words += f" after {_duration(story.seconds)}"
        if len(found.recipients) == 1 and found.attempt_count > 1:
            words += f" on the {_ordinal(found.attempt_count)} attempt"
        elif story.attempts > 1 and not _may_have_more(story, found):
            words += f" on the {_ordinal(story.attempts)} attempt"
    return words


def _may_have_more(story: Story, found: Explanation) -> bool:
    """Whether one of several recipients may have had more attempts than are kept: only all together are counted."""
    kept = sum(each.attempts for each in found.recipients)
    return story.attempts >= FIRST_ATTEMPTS + LAST_ATTEMPTS and kept < found.attempt_count


def _failure(failure: Failure) -> str:
    times = "" if failure.times == 1 else f" {failure.times} times"
    by = f" by {_safe(failure.relay)}" if failure.relay and failure.relay not in {"none", "local"} else ""
    word = "returned to the sender: refused" if failure.outcome == "bounced" and by else _verb(failure.outcome)
    return f"{word}{times}{by}{_why(failure.dsn, failure.means, failure.reason)}"


def _verb(outcome: str) -> str:
    return "deferred" if outcome == "deferred" else _ENDS[outcome]


def _why(dsn: str | None, means: str | None, reason: str | None) -> str:
    code = _safe(dsn or "")
    words = " ".join(filter(None, (code, means)))
    kind = f" [{reason}]" if reason else ""
    return f": {words}{kind}" if words else kind


def _group(group: Group) -> str:
    relay = f" ({_safe(group.relay)})" if group.relay else ""
    names = ", ".join(_safe(each) for each in group.examples)
    more = ", …" if group.count > len(group.examples) else ""
    end = _ENDS.get(group.outcome, _safe(group.outcome))
    slowest = f", the slowest after {_duration(group.longest_seconds)}" if group.reason is None else ""
    return f"{group.count} {end}{relay}{_why(group.dsn, group.means, group.reason)}{slowest}: {names}{more}"


def _after(found: Explanation) -> Iterator[Line]:
    for link in found.links[:_MOST_LINKS]:
        where = f" on {_safe(link['host'])}" if link["host"] else ""
        sentence = _LINKS.get(link["kind"] or "", "It belongs to {}.")
        yield Line(1, sentence.format(_safe(link["queue_id"] or "-") + where))
    if len(found.links) > _MOST_LINKS:
        yield Line(1, f"{len(found.links) - _MOST_LINKS} more links (--json has all).")
    if found.outcome == "held" and found.closed_by is None:
        yield Line(1, "It is on hold: no attempt is made until it is released.")
    elif found.state == "incomplete":
        yield Line(1, "It is open, but the log has had no news of it for longer than mail stays in a queue.")
    elif found.state == "open":
        yield Line(1, "It is still open: what happens next is not in the log yet.")
    elif found.closed_by == "deleted":
        yield Line(1, "An administrator took it out of the queue.")
    for note in found.notes:
        yield Line(1, f"Note, {_safe(note.note)}: {note.means}." if note.means else f"Note: {_safe(note.note)}.")


def _name(story: Story) -> str:
    if story.recipient is None:
        return "no recipient named"
    original = f" (for {_safe(story.original_recipient)})" if story.original_recipient else ""
    return f"{_safe(story.recipient)}{original}"


def _duration(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s" if seconds >= 1 else "less than a second"
    for unit, length in (("min", _MINUTE), ("h", _HOUR)):
        if seconds < (_HOUR if unit == "min" else 2 * _DAY):
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / _DAY:.0f} days"


def _ordinal(number: int) -> str:
    last = number % 100
    ending = "th" if last in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _time(stamp: str, zone: tzinfo | None) -> str:
    return in_zone(datetime.fromisoformat(stamp), zone).strftime("%Y-%m-%d at %H:%M:%S")


def _cut(status: str) -> str:
    return _safe(status if len(status) <= _MOST_WORDS else status[:_MOST_WORDS] + "…")


def _safe(value: str) -> str:
    return sanitise(value)
