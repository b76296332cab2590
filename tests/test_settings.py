"""Settings: the environment over the file, and a wrong value told with its name, itself and what was expected."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from mailspan.errors import UsageError
from mailspan.settings import Settings, read_settings

if TYPE_CHECKING:
    from pathlib import Path


def test_each_setting_has_a_sentence_what_is_expected_and_a_reader() -> None:
    for each in fields(Settings):
        assert each.metadata["help"].endswith(".")
        assert each.metadata["expected"]
        assert callable(each.metadata["read"])


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "mailspan.toml"
    config.write_text(
        'mailspan_store = "sqlite:///a"\n[mailspan_host_aliases]\nMX1 = "Mail.example.com"\n', encoding="utf-8"
    )
    found = read_settings({"MAILSPAN_REJECTIONS": "count"}, config)
    assert (found.store, found.rejections) == ("sqlite:///a", "count")
    assert found.host_aliases == {"mx1": "mail.example.com"}
    assert read_settings({"MAILSPAN_STORE": "sqlite:///b"}, config).store == "sqlite:///b"
    assert read_settings({"MAILSPAN_STORE": "", "MAILSPAN_LATER": "x"}, config).store == "sqlite:///a"


def test_aliases_as_text() -> None:
    found = read_settings({"MAILSPAN_HOST_ALIASES": "MX1=a.example.com, mx2 = b.example.com,"})
    assert found.host_aliases == {"mx1": "a.example.com", "mx2": "b.example.com"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAILSPAN_HOST_ALIASES", "mx1"),
        ("MAILSPAN_HOST_ALIASES", "=a"),
        ("MAILSPAN_REJECTIONS", "maybe"),
        ("MAILSPAN_STORE", "a\0b"),
    ],
)
def test_a_wrong_value(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"^{name}: .* is not right; expected ") as caught:
        read_settings({name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mailspan_stoer = 'x'", "no setting is named 'mailspan_stoer'; expected one of mailspan_store"),
        ("mailspan_store = 3", "mailspan_store in .*: 3 is not right"),
        ("no toml", "expected a TOML file"),
        ("mailspan_store = '\udcff'", "expected a TOML file"),
    ],
)
def test_a_wrong_file(tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "mailspan.toml"
    config.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=said) as caught:
        read_settings({}, config)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_settings({}, tmp_path / "missing.toml")
