"""How the lines of filters beside the mail server are read: rspamd, amavis, opendkim, opendmarc.

Pure. Senders, Message-IDs, subjects and file names stand in these lines as the sender wrote them, some with spaces and
commas. So a value is read where nothing that a sender wrote stands before it, or from the end of the line, or not at
all: a line that can be read in two ways is not read.
"""

from __future__ import annotations

import re

from mailspan import queue_id
from mailspan.event import Filtered, Remarked
from mailspan.record import Ignored

_MAX_DETAIL = 1000
_NOT_POSTFIX = Ignored("filter without queue id")
_DETAIL = Ignored("filter detail")
_CUT = Ignored("filter line cut")

# rspamd puts `?` for each space of a Message-ID, so the first space is its own [tests/corpus/filters/hostile].
_RSPAMD = re.compile(
    r"<[0-9a-z]{1,32}>; [a-z_]{1,32}; rspamd_task_write_log: id: <[^ ]*>,(?: qid: <([^<> ]{1,64})>,)? "
    r"(?=ip: |user: |from: <|\(default: )"
)
# Actions may be an administrator's own, and a score may be no number: whatever has this form is a verdict.
_RSPAMD_VERDICT = re.compile(r"\(default: [A-Z] \(([^()]{1,40})\): \[([^][/ ]{1,40})/([^][/ ]{1,40})\] (?=\[)")
# The line ends with addresses, or with a file's name, an action that was forced, or the name of settings
# [conf/logging.inc of 2.0 to 3.4].
_RSPAMD_DIGEST = re.compile(r", digest: <[0-9a-f]{16,128}>(?:, |\Z)")
_RSPAMD_FORCED = re.compile(
    r', forced: [^"]{1,40} "(.{0,500})"; score=[-0-9a-z.]{1,20} \(set by ([^()]{1,80})\)(?:, settings_id: [!-~]{1,200})?\Z'
)
_IS_POSTFIX = queue_id.IdForm(queue_id.POSTFIX)

_ADDRESS = r'<(?:"(?:[^"\\]++|\\.)*+"|[^<>"]++)*+>'
_AMAVIS_SAYS = re.compile(r"\([0-9]{2,10}-[0-9]{2,10}(?:-[0-9]{1,10})?\) (?:Passed|Blocked) ")
_AMAVIS_VERDICT = re.compile(r"(?:Passed|Blocked) [A-Z][A-Z0-9-]{1,30}(?= [({])")
_AMAVIS = re.compile(
    rf" \{{([A-Za-z,]{{0,200}})\}}, [^<]{{0,200}}{_ADDRESS} -> {_ADDRESS}(?:,{_ADDRESS})*+"
    r"(?:, quarantine: ([!-+\--~]{1,200}))?(?:, Queue-ID: ([^, ]{1,64}))?(?=, )"
)
# What stands behind the Message-ID is amavis's own, but for the names of whose signatures were good
# [amavisd 2.10 to 2.13, $log_templ].
_SIGNERS = r"[0-9A-Za-z._:,-]{1,600}"
_AMAVIS_TAIL = re.compile(
    r", mail_id: [0-9A-Za-z_-]{1,40}, Hits: (-|-?[0-9]{1,7}(?:\.[0-9]{1,7})?), size: [0-9]{1,12}(?:, pt: [0-9]{1,10})?"
    rf"(?:, queued_as: ([0-9A-Za-z]{{1,64}}(?:/[0-9A-Za-z]{{1,64}}){{0,15}}))?(?:, dkim_sd={_SIGNERS})?(?:, dkim_new={_SIGNERS})?, [0-9]{{1,10}} ms"
    r"(?:, Tests: \[[0-9A-Za-z_.,=-]{0,2000}\])?\Z"
)
_LONGEST_TAIL = 3600
_NUMBER = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,7})?")

_SIGNED = re.compile(r"DKIM-Signature field added \((s=[!-~]{1,255}, d=[!-~]{1,255})\)")
_DMARC = re.compile(r"([^ ]{1,255}) (pass|fail|none|temperror)")
_SPF = re.compile(r"SPF\((mailfrom|helo)\): ([^ ]{1,255}) ([a-z]{1,20})")


def read_rspamd(message: str) -> tuple[str | None, Filtered | Ignored | None]:
    """Read the one line of rspamd about a whole mail: the queue ID that it names, and the verdict."""
    if "; rspamd_task_write_log: " not in message[:100]:
        return None, _DETAIL
    match = _RSPAMD.match(message)
    if match is None:
        return None, None
    if match[1] is None or not _IS_POSTFIX[match[1]]:
        return None, _NOT_POSTFIX
    verdicts = list(_RSPAMD_VERDICT.finditer(message, match.end()))
    if len(verdicts) != 1:  # a sender wrote another one
        return match[1], None
    verdict = verdicts[0]
    if message[-1] not in ">)" and _RSPAMD_DIGEST.search(message, verdict.end()) is None:
        return match[1], None  # the line was cut
    end = message.rfind("]), len: ")
    detail = message[verdict.end() : end + 1] if end > verdict.end() else ""
    forced = _RSPAMD_FORCED.search(message, max(verdict.end(), message.rfind(", forced: ")))
    if forced is not None:
        detail = f"{forced[2]}: {forced[1]}; {detail}"
    return match[1], Filtered("rspamd", verdict[1], _number(verdict[2]), _number(verdict[3]), detail[:_MAX_DETAIL])


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None  # nan, inf, or amavis's dash: none was made


def read_amavis(message: str) -> tuple[str | None, Filtered | Ignored | None]:
    """Read amavis's line about a mail: the queue ID that it came with, verdict, score, quarantine, and the next ID."""
    says = _AMAVIS_SAYS.match(message)
    if says is None:
        return None, _DETAIL
    if message.endswith("..."):
        return None, _CUT
    verdict = _AMAVIS_VERDICT.match(message, message.index(") ") + 2)
    if verdict is None:
        return None, None
    what, begin = "", verdict.end()
    if message.startswith(" (", begin):  # a virus, or the name that a sender gave a file
        what, *rest = message[begin + 2 :].split(") {")
        if len(rest) != 1:
            return None, None  # it may end at either
        begin += len(what) + 3
    match = _AMAVIS.match(message, begin)
    if match is None:
        return None, None
    if match[3] is None or not _IS_POSTFIX[match[3]]:
        return None, _NOT_POSTFIX
    tail = _AMAVIS_TAIL.search(message, max(0, len(message) - _LONGEST_TAIL))
    if tail is None:
        return match[3], None
    said = [each for each in (what, match[1], f"quarantine: {match[2]}" if match[2] else None) if each]
    next_ids = tuple(each for each in (tail[2] or "").split("/") if _IS_POSTFIX[each])
    return match[3], Filtered("amavis", verdict[0], _number(tail[1]), None, "; ".join(said)[:_MAX_DETAIL], next_ids)


def read_signed(text: str, program: str) -> Filtered | None:
    """`DKIM-Signature field added (s=mail, d=example.com)`."""
    match = _SIGNED.fullmatch(text)
    return None if match is None else Filtered(program, "signed", detail=match[1])


def read_verified(text: str, program: str) -> Filtered | None:
    """`DKIM verification successful`, `bad signature data`, `no signature data`: what was found, in few words."""
    verdict = {
        "DKIM verification successful": "signature verified",
        "bad signature data": "bad signature",
        "no signature data": "no signature",
    }.get(text)
    return None if verdict is None else Filtered(program, verdict)


def read_no_key(text: str, program: str) -> Filtered:
    """`key retrieval failed (s=gone, d=example.org): …`."""
    return Filtered(program, "key retrieval failed", detail=text.removeprefix("key retrieval failed ")[:_MAX_DETAIL])


def read_remark(_text: str, _program: str) -> Remarked:
    """`no signing table match for 'u@example.org'`: no verdict."""
    return Remarked("filter detail")


def read_dkim_remark(text: str, program: str) -> Remarked | None:
    """`client.example.org [198.51.100.7] not internal` and what else says nothing of the end."""
    is_known = text.endswith(" not internal") or (text.startswith("s=") and " SSL" in text)
    return read_remark(text, program) if is_known or text == "not authenticated" else None


def read_spf(text: str, program: str) -> Filtered | None:
    """`SPF(mailfrom): example.net fail`: opendmarc's own SPF check."""
    match = _SPF.fullmatch(text)
    return None if match is None else Filtered(program, f"SPF {match[3]}", detail=f"{match[1]} {match[2]}")


def read_dmarc(text: str, program: str) -> Filtered | None:
    """`example.net fail`: the domain of the From header, and whether it passed."""
    match = _DMARC.fullmatch(text)
    return None if match is None else Filtered(program, match[2], detail=match[1])


def read_no_author(text: str, program: str) -> Filtered:
    """`multi-valued From field detected`: no DMARC check was made."""
    return Filtered(program, "not checked", detail=text)
