"""The chain of a ledger's entries: how heads and seals are made, and verifying them."""

import collections
import dataclasses
import hashlib
import hmac
import json
import pathlib
import sys
from collections.abc import Iterable
from typing import NamedTuple

from identitydp_jax.checks import UserError, parse_json
from identitydp_jax.privacy.accounting import GaussianLoss, Loss, PureLoss
from identitydp_jax.privacy.ledger_file import damage

FORMAT = "identitydp ledger v1"
NO_HEAD = bytes(32)
_FIRST_FIELDS = ("ledger", "id", "key", "time", "code_sha256"), ()
_FIELDS = (
    ("time", "subject", "policy", "mechanism", "calibration", "key", "code_sha256"),
    ("claimed_epsilon", "epsilon", "delta", "rho"),
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One verified entry, without its code.

    Attributes:
      number: its place; 0 names the ledger, each other one is a release.
      head: hexadecimal.
      record: the body. Of entry 0: `ledger`, `id`, `key` (commitment to the ledger's), `time`,
        `code_sha256` (of nothing). Of a release: `time`, `subject` (its tag), `policy`,
        `mechanism`, `calibration`, `claimed_epsilon`, `epsilon` as certified at `delta`, `rho`,
        `loss`, `key` (commitment to that of the noise), `code_sha256`.
    """

    number: int
    head: str
    record: dict

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
    """

    def __init__(self, path: pathlib.Path, key: bytes | None):
        self.number: int | None = None
        self.head = NO_HEAD
        self.losses: dict[str, collections.Counter[Loss]] = {}
        self.remembered: dict[tuple[str, str], Remembered] = {}
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
        if number > 0:
            self._charge(entry)
        self.number, self.head = number, head
        return entry

    def _parse(self, number: int, body: bytes, head: bytes) -> Entry:
        try:
            entry = Entry(number, head.hex(), parse_json(body))
            texts, numbers = _FIELDS if number else _FIRST_FIELDS
            readable = all(isinstance(entry.record[name], str) for name in texts)
            readable &= all(isinstance(entry.record[name], int | float) for name in numbers)
            readable &= bool(entry.loss) if number else entry.record["ledger"] == FORMAT
        except (KeyError, TypeError, ValueError):
            readable = False
        if not readable:
            raise damage(self._path, f"entry {number} is not of the format {FORMAT!r}")
        return entry

    def _charge(self, entry: Entry) -> None:
        tag, policy = entry.record["subject"], sys.intern(entry.record["policy"])
        self.losses.setdefault(tag, collections.Counter())[entry.loss] += 1
        code = Remembered(entry.number, entry.head, entry.record["code_sha256"])
        self.remembered.setdefault((tag, policy), code)


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
