"""The chain of a ledger's entries: how heads and seals are made, and verifying them."""

import collections
import dataclasses
import datetime
import hashlib
import hmac
import json
import pathlib
import sys
from collections.abc import Iterable
from typing import NamedTuple

from identitydp_jax.checks import UserError, parse_json
from identitydp_jax.privacy.accounting import Budget, GaussianLoss, Loss, PureLoss, epsilon_at
from identitydp_jax.privacy.calibration import EMBEDDING_DIM
from identitydp_jax.privacy.ledger_file import damage

FORMAT = "identitydp ledger v1"
NO_HEAD = bytes(32)
_FIRST_FIELDS = ("ledger", "id", "key", "time", "code_sha256"), ()
_FIELDS = (
    ("time", "subject", "policy", "mechanism", "calibration", "key", "code_sha256"),
    ("claimed_epsilon", "epsilon", "delta", "rho"),
)
_LIMIT_FIELDS = ("time", "code_sha256"), ()
_DELTA = 1e-6  # at which an entry states the epsilon of a mechanism that has no pure one


@dataclasses.dataclass(frozen=True)
class Charge:
    """What one release costs its subject, and what it is made with.

    Attributes:
      policy: text that names everything which makes codes differ; see `PrivacySetting.policy`.
      mechanism: for the reader of the ledger, as is `calibration`.
      calibration: by which sensitivity the noise is scaled.
      claimed_epsilon: by the paper's definition, finite.
      loss: as certified; this is what adds up.
      key: the commitment to the key of the noise, never the key.
      dimension: how many integers a code has.
    """

    policy: str
    mechanism: str
    calibration: str
    claimed_epsilon: float
    loss: Loss
    key: str
    dimension: int = EMBEDDING_DIM


@dataclasses.dataclass(frozen=True)
class Entry:
    """One verified entry, without its code.

    Attributes:
      number: its place; 0 names the ledger, each other one is a release or sets limits.
      head: hexadecimal.
      record: the body. Of entry 0: `ledger`, `id`, `key` (commitment to the ledger's), `time`,
        `code_sha256` (of nothing). Of a release: `time`, `subject` (its tag), `policy`,
        `mechanism`, `calibration`, `claimed_epsilon`, `epsilon` as certified at `delta`, `rho`,
        `loss`, `key` (commitment to that of the noise), `code_sha256`. Of limits: `time`, `limits`
        (those of `accounting.Budget`, all that are in force from then on), `code_sha256`.
    """

    number: int
    head: str
    record: dict

    @property
    def is_release(self) -> bool:
        """Whether it charges a subject."""
        return "subject" in self.record

    @property
    def budget(self) -> Budget | None:
        """The limits that it sets, None of any other entry."""
        return Budget(**self.record["limits"]) if "limits" in self.record else None

    @property
    def loss(self) -> Loss:
        """The loss of a release."""
        fields = self.record["loss"]
        return PureLoss(**fields) if "epsilon" in fields else GaussianLoss(**fields)


class Remembered(NamedTuple):
    """Where a subject's code under a policy is, as verified."""

    number: int
    head: str
    code_sha256: str


class Chain:
    """The verified part of a ledger, and what it says of each subject.

    Args:
      path: for error messages.
      key: 32 bytes; None leaves the seals unchecked.

    Attributes:
      number: of the last verified entry, None before the first.
      head: of that entry, 32 bytes.
      losses: by tag, how often each loss was charged.
      remembered: by (tag, policy).
      budget: what the releases of one subject may add up to, as last set.
    """

    def __init__(self, path: pathlib.Path, key: bytes | None):
        self.number: int | None = None
        self.head = NO_HEAD
        self.losses: dict[str, collections.Counter[Loss]] = {}
        self.remembered: dict[tuple[str, str], Remembered] = {}
        self.budget = Budget()
        self._path, self._key = path, key

    def extend(self, rows: Iterable[tuple]) -> list[Entry]:
        """Verify rows (number, body, head, seal, code), take them in and return them.

        Args:
          rows: the last verified one, then all that follow; at first, all.

        Raises:
          UserError: something is missing, changed, out of order or not sealed with the key.
        """
        rows = iter(rows)
        if self.number is not None:
            last = next(rows, None)
            if last is None or last[0] != self.number or last[2] != self.head:
                raise damage(self._path, f"entry {self.number} was changed or removed in use")
        entries = [self._take(*row) for row in rows]
        if self.number is None:
            raise damage(self._path, "it has no entries")
        return entries

    def _take(self, number, body, head, seal, code) -> Entry:
        expected = 0 if self.number is None else self.number + 1
        if number != expected:
            raise damage(self._path, f"entry {expected} is missing")
        if not isinstance(body, bytes) or head != next_head(self.head, body):
            raise damage(self._path, f"entry {number} or the one before it was changed")
        entry = self._parse(number, body, head)
        if number == 0 and self._key and entry.record["key"] != commit(self._key):
            raise UserError(
                f"ledger {self._path} belongs to another key: give the key it began with"
            )
        if self._key and seal != mac(self._key, b"seal", head):
            raise damage(self._path, f"entry {number} was not written with the ledger's key")
        if not isinstance(code, bytes) or digest(code) != entry.record["code_sha256"]:
            raise damage(self._path, f"the code of entry {number} was changed")
        if entry.is_release:
            self._charge(entry)
        self.budget = entry.budget or self.budget
        self.number, self.head = number, head
        return entry

    def _parse(self, number: int, body: bytes, head: bytes) -> Entry:
        try:
            entry = Entry(number, head.hex(), parse_json(body))
            texts, numbers = _fields(number, entry)
            readable = all(isinstance(entry.record[name], str) for name in texts)
            readable &= all(isinstance(entry.record[name], int | float) for name in numbers)
            if number == 0:
                readable &= entry.record["ledger"] == FORMAT
            else:
                readable &= bool(entry.loss if entry.is_release else entry.budget)
        except (KeyError, TypeError, ValueError, UserError):
            readable = False
        if not readable:
            raise damage(self._path, f"entry {number} is not of the format {FORMAT!r}")
        return entry

    def _charge(self, entry: Entry) -> None:
        tag, policy = entry.record["subject"], sys.intern(entry.record["policy"])
        self.losses.setdefault(tag, collections.Counter())[entry.loss] += 1
        code = Remembered(entry.number, entry.head, entry.record["code_sha256"])
        self.remembered.setdefault((tag, policy), code)


def _fields(number: int, entry: Entry) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names that an entry must have, of texts and of numbers."""
    if number == 0:
        return _FIRST_FIELDS
    return _FIELDS if entry.is_release else _LIMIT_FIELDS


def charge_record(tag: str, charge: Charge) -> dict:
    """Return the body of a release by the subject of a tag."""
    pure = isinstance(charge.loss, PureLoss)
    return {
        "time": now(),
        "subject": tag,
        "policy": charge.policy,
        "mechanism": charge.mechanism,
        "calibration": charge.calibration,
        "claimed_epsilon": charge.claimed_epsilon,
        "epsilon": charge.loss.epsilon if pure else epsilon_at(_DELTA, [charge.loss]),
        "delta": 0.0 if pure else _DELTA,
        "rho": charge.loss.rho,
        "loss": dataclasses.asdict(charge.loss),
        "key": charge.key,
    }


def make_row(number: int, record: dict, code: bytes, *, after: bytes, key: bytes) -> tuple:
    """Return the row of a record and its code, of which it adds the SHA-256.

    Args:
      number: of the entry.
      record: its body.
      code: of the release; none, so empty, in entry 0.
      after: the head of the entry before, `NO_HEAD` for entry 0.
      key: of the ledger.

    Raises:
      ValueError: a number in the record is not finite.
    """
    record = record | {"code_sha256": digest(code)}
    body = json.dumps(record, allow_nan=False, sort_keys=True).encode()
    head = next_head(after, body)
    return number, body, head, mac(key, b"seal", head), code


def next_head(head: bytes, body: bytes) -> bytes:
    """Return the head of an entry, SHA-256 of a fixed prefix, the head before it and its body."""
    return hashlib.sha256(b"identitydp ledger entry v1\0" + head + body).digest()


def digest(code: bytes) -> str:
    """Return the hexadecimal SHA-256 of a code, by which its entry holds it."""
    return hashlib.sha256(code).hexdigest()


def mac(key: bytes, purpose: bytes, data: bytes) -> bytes:
    """Return HMAC-SHA-256 of data under the ledger's key, for one purpose."""
    return hmac.digest(key, b"identitydp ledger " + purpose + b" v1\0" + data, "sha256")


def commit(key: bytes) -> str:
    """Return what entry 0 says of the key, so that no other is used with the ledger."""
    return mac(key, b"commitment", b"").hex()


def now() -> str:
    """Return the time as entries have it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
