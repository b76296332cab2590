"""The queue ID of the next hop, at its known place in the replies of all MTAs, bare or handed on by a content filter."""

from __future__ import annotations

import pytest

from mailspan.reply import next_queue_id

INNER = {
    "250 2.0.0 Ok: queued as 4jXysS674Xz9CLy": "4jXysS674Xz9CLy",
    "250 2.0.0 n6BKjb0S009609 Message accepted for delivery": "n6BKjb0S009609",
    "250 2.0.0 8c3f5a1e Message accepted for delivery": "8c3f5a1e",
    "250 OK id=1xVOtJ-000013-2I": "1xVOtJ-000013-2I",
    "250 OK id=1sFUlr-00000000rus-Iooo": "1sFUlr-00000000rus-Iooo",
    "250 2.0.0 OK id=1mwMds-00063I-S2": "1mwMds-00063I-S2",
}
FILTERS = (
    "",
    "250 2.0.0 from MTA(smtp:[10.77.0.12]:10025): ",
    "250 2.6.0 Ok, id=12345-01, from MTA([127.0.0.1]:10025): ",
    "from MTA(smtp:[127.0.0.1]:10025): ",
)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("before", FILTERS)
def test_the_next_queue_id(before: str, inner: str) -> None:
    assert next_queue_id(f"{before}{inner}") == INNER[inner]


@pytest.mark.parametrize(
    ("text", "queue_id"),
    [
        (r"250- 39457 byte chunk, total 40669\n250 OK id=1d171v-0007GV-Hi", "1d171v-0007GV-Hi"),
        (r"250-2.0.0  221 byte chunk, total 222\n250 2.0.0 OK id=1mwMds-00063I-S2", "1mwMds-00063I-S2"),
        (r"250-Thanks\n250 2.0.0 Ok: queued as 4jXysS674Xz9CLy", "4jXysS674Xz9CLy"),
        (r"250-OK id=1d171v-0007GV-Hi\n250 thanks", None),
    ],
)
def test_of_several_lines_the_last_one_has_it(text: str, queue_id: str | None) -> None:
    assert next_queue_id(text) == queue_id


@pytest.mark.parametrize(
    "text",
    [
        "250 2.0.0 from MTA(smtp:[10.77.0.12]:10025): thanks, AB12CD Message accepted for delivery",
        "250 2.0.0 somebody from MTA(x): 250 OK id=1xVOtJ-000013-2I",
        "250 2.0.0 from MTA(a) MTA(b): 250 OK id=1xVOtJ-000013-2I",
        "250 2.0.0 Ok",
        "250 I said: OK id=1xVOtJ-000013-2I",
    ],
)
def test_nothing_is_taken_from_elsewhere_in_a_reply(text: str) -> None:
    assert next_queue_id(text) is None
