"""How long a topic keeps its records, as a figure: asked for now and then, and nobody waits for the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from mailspan.topic_retention import TopicRetention


@dataclass
class Broker:
    """Promises answers, which tests give."""

    answers: list[Any] = field(default_factory=list)
    asked: int = 0

    def ask(self) -> Broker:
        self.asked += 1
        return self

    def done(self) -> bool:
        return bool(self.answers)

    def result(self) -> dict[str, Any]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"retention.ms": SimpleNamespace(value=answer)}


def test_it_is_asked_and_never_waited_for() -> None:
    broker, said = Broker(), list[str]()
    retention = TopicRetention("mail.raw", "reduce", broker.ask, said.append)

    def shown(now: float) -> list[float]:
        return [each.value for each in retention.figures(now) if isinstance(each.value, float)]

    assert [shown(now) for now in (0, 1, 2)] == [[], [], []]
    assert broker.asked == 1
    broker.answers.append("604800000")
    assert shown(3) == [604800.0]
    assert [shown(now) for now in (4, 602)] == [[604800.0]] * 2
    assert broker.asked == 1
    assert shown(603) == [604800.0]  # it asks again, and shows what it knows
    assert broker.asked == 2
    broker.answers.append("-1")
    assert shown(604) == [float("inf")]
    assert said == []


def test_where_there_is_no_right_that_is_told_once_and_asked_again() -> None:
    broker, said = Broker(), list[str]()
    retention = TopicRetention("mail.raw", "reduce", broker.ask, said.append)
    for now in (0.0, 1.0, 61.0, 62.0, 122.0):
        broker.answers[:] = [PermissionError("not authorised")]
        assert list(retention.figures(now)) == []
    assert broker.asked == 3
    (line,) = said
    assert line.startswith("retention.ms of mail.raw cannot be seen (not authorised), and is not shown as a metric")
    broker.answers[:] = ["1000"]
    (figure,) = retention.figures(123.0)
    assert (figure.value, figure.labels) == (1.0, ("reduce",))
