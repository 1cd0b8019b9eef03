"""The ledger: what each subject has been charged, and the noisy code that the charge bought.

One SQLite file. Entry 0 names the ledger; every other entry sets limits, which stay in force until
others are set, or is one release: its subject (as a keyed hash), what it cost (`Charge`) and the
code. The same subject and policy get that code back
instead of fresh noise, because noise that is drawn anew averages out.

**Order of events.** Within one transaction, which keeps all other writers out: the entries since
the last look are verified, what is remembered is found, the budget is checked, the rest is drawn
and written. Only after the commit has reached the disk do codes leave `Ledger.release`. So a
process that dies at any moment has either charged and remembered a code, or released none.

**What verification finds.** An entry's head is SHA-256 of the head before it and its body, and the
body holds the SHA-256 of the code: an entry that is changed, removed, inserted or moved breaks the
chain. Who lacks the ledger's key may compute another chain, but not its seals, HMACs of the heads,
which are checked wherever the key is given. What the file alone can *not* show is that its newest
entries are gone, or that all of it is an older copy, or the whole file. The heads that releases
return do show it: the newest is kept beside the key (`ledger_head`), and others put into receipts,
for `read`. Who has the key can rewrite
whatever is not attested by a head that somebody else keeps. And a photo that was anonymized with
another ledger, or none, is in no account here.

**What it tells its reader.** No names: a tag is HMAC-SHA-256 of the subject under the ledger's key.
But it tells which releases have one subject, when they were made, and the codes: who has this file
and the key of the noise has the faces. The file has mode 0600.
"""

import dataclasses
import os
import pathlib
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import ledger_head
from identitydp_jax.privacy.accounting import Budget, Loss
from identitydp_jax.privacy.ledger_chain import (
    FORMAT,
    NO_HEAD,
    Chain,
    Charge,
    Entry,
    Remembered,
    charge_record,
    commit,
    digest,
    mac,
    make_row,
    now,
)
from identitydp_jax.privacy.ledger_file import LedgerFile, create, damage

_KEY_BYTES = 32


@dataclasses.dataclass(frozen=True)
class Release:
    """A code that may be used, its charge being on the disk.

    Attributes:
      code: int32 (charge.dimension,), read-only.
      number: of the entry that charged it, from 1.
      head: hexadecimal head of that entry, for the receipt: see this module's docstring.
      reused: whether it was remembered, so that nothing was charged this time.
    """

    code: np.ndarray = dataclasses.field(repr=False)
    number: int
    head: str
    reused: bool


class Ledger:
    """A ledger that is open for releases; close it, or use it in a `with` statement.

    Any number of processes may have the same ledger open; each process and thread opens its own.

    Args:
      path: the file; made with mode 0600, and its folders for the owner alone, if there is none.
      key: 32 secret bytes, the same for the ledger's life: under another key a subject would have
        another tag, and its account would start anew.
      budget: what the releases of one subject may add up to, those by other processes included.
        What it sets replaces what the ledger has kept, and is kept; the rest stays in force.
      head_file: where the newest head is kept, of `ledger_head.path_beside`; None keeps none.

    Raises:
      UserError: the file is damaged, no ledger, of another key, not a regular file, has
        permissions wider than 0600, or cannot be read, made or written; or there is a head, and
        the ledger is gone or lacks it.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        key: bytes,
        *,
        budget: Budget | None = None,
        head_file: pathlib.Path | None = None,
    ):
        if len(key) != _KEY_BYTES:
            raise ValueError(f"the ledger's key has {len(key)} bytes: give {_KEY_BYTES}")
        path, self._head_file = pathlib.Path(path), head_file
        attested = ledger_head.read(head_file) if head_file else None
        if not os.path.lexists(path):
            if attested:
                raise UserError(
                    f"ledger {path} is gone, though releases were charged in it: restore it (or"
                    f" remove {head_file}, and lose the account of all of them)"
                )
            first = {"ledger": FORMAT, "id": secrets.token_hex(16), "key": commit(key)}
            create(path, make_row(0, first | {"time": now()}, b"", after=NO_HEAD, key=key))
        self._key = bytes(key)
        self._file, self._chain = LedgerFile(path), Chain(path, self._key)
        try:
            with self._file.transaction():
                entries = self._catch_up()
                if attested and attested not in {entry.head for entry in entries}:
                    raise damage(path, f"it lacks the entry that {head_file} attests")
                self._set_limits(budget or Budget())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Ledger":
        """Return itself."""
        return self

    def __exit__(self, *_):
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def release(
        self,
        subjects: Sequence[str | bytes],
        charge: Charge,
        draw: Callable[[Sequence[int]], np.ndarray],
    ) -> list[Release]:
        """Charge subjects and return their codes, the remembered ones as they are; all or nothing.

        Args:
          subjects: one per code: the name of a person or track, or the digest of an image where
            nobody says who is in it. Those that repeat get one code.
          charge: of each subject that has nothing remembered for `charge.policy`.
          draw: called at most once, with the places in `subjects` whose codes are to be drawn;
            returns int32 (places, charge.dimension). Not called if the budget forbids any of them.
            Other processes wait while it runs; if it raises, nothing is charged.

        Returns:
          One release per subject; their charges are on the disk.

        Raises:
          UserError: the budget of a subject forbids it, a subject is empty, or the ledger is
            damaged or cannot be written. Nothing may be released.
          TypeError: `draw` returned another dtype than int32.
          ValueError: it returned another shape.
        """
        tags = [subject_tag(self._key, subject) for subject in subjects]
        with self._file.transaction():
            self._catch_up()
            known, places = {}, {}
            for place, tag in enumerate(tags):
                remembered = self._chain.remembered.get((tag, charge.policy))
                if remembered:
                    known[tag] = remembered
                else:
                    places.setdefault(tag, place)
            for tag in places:
                self._check_budget(tag, charge.loss)
            releases = {tag: self._recall(remembered) for tag, remembered in known.items()}
            if places:
                shape = (len(places), charge.dimension)
                codes = _check_codes(draw(list(places.values())), shape)
                releases |= self._append(dict(zip(places, codes, strict=True)), charge)
        if places and self._head_file:
            ledger_head.write(self._head_file, max(releases.values(), key=_number).head)
        return [releases[tag] for tag in tags]

    def _catch_up(self) -> list[Entry]:
        """Verify what was written since the last look, and return it."""
        return self._chain.extend(self._file.rows(self._chain.number))

    def _set_limits(self, given: Budget) -> None:
        budget = self._chain.budget.updated(given)
        if budget != self._chain.budget:
            record = {"time": now(), "limits": dataclasses.asdict(budget)}
            number, head = self._chain.number + 1, self._chain.head
            self._file.append(make_row(number, record, b"", after=head, key=self._key))

    def _check_budget(self, tag: str, loss: Loss) -> None:
        counts = self._chain.losses.get(tag)
        spent = list(counts.elements()) if counts else []
        excess = self._chain.budget.excess([*spent, loss])
        if excess:
            raise UserError(
                f"ledger {self._file.path}: after {len(spent)} releases of subject {tag[:12]},"
                f" {excess}: nothing is released; raise the budget, or leave this photo out"
            )

    def _recall(self, remembered: Remembered) -> Release:
        data = self._file.code(remembered.number)
        if not isinstance(data, bytes) or digest(data) != remembered.code_sha256:
            raise damage(self._file.path, f"the code of entry {remembered.number} was changed")
        return Release(_code(data), remembered.number, remembered.head, reused=True)

    def _append(self, codes: dict[str, np.ndarray], charge: Charge) -> dict[str, Release]:
        number, head, releases = self._chain.number, self._chain.head, {}
        for tag, code in codes.items():
            data = code.astype("<i4").tobytes()
            number += 1
            row = make_row(number, charge_record(tag, charge), data, after=head, key=self._key)
            self._file.append(row)
            head = row[2]
            releases[tag] = Release(_code(data), number, head.hex(), reused=False)
        return releases


def subject_tag(key: bytes, subject: str | bytes) -> str:
    """Return the hexadecimal keyed hash that stands for a subject in a ledger.

    A name (text; composed and decomposed letters are the same) and a digest (bytes) never share a
    tag.

    Raises:
      UserError: the subject is empty: all who have no name would be one person.
    """
    if not subject:
        raise UserError("subject is empty: give the name of a person or track, or a digest")
    kind, data = b"digest\0", subject
    if isinstance(subject, str):
        text = unicodedata.normalize("NFC", subject)
        kind, data = b"name\0", text.encode("utf-8", "surrogatepass")  # of a file's name, maybe
    return mac(key, b"subject", kind + data).hex()


def default_path(key_file: str | os.PathLike) -> pathlib.Path:
    """Return where the ledger of a master key is unless the user names another file: beside it."""
    path = pathlib.Path(key_file)
    return path.with_name(path.name + ".ledger")


def read(
    path: str | os.PathLike, *, key: bytes | None = None, heads: Iterable[str] = ()
) -> list[Entry]:
    """Verify a whole ledger, every code included, and return its entries.

    Args:
      path: the file.
      key: where given, the seals are verified with it.
      heads: hexadecimal heads from receipts; each must be in the chain.

    Raises:
      DamagedLedger: the ledger is damaged, was tampered with, or lacks one of the heads.
      UserError: it is of another key or cannot be read.
    """
    path = pathlib.Path(path)
    file = LedgerFile(path)
    try:
        file.check()
        entries = Chain(path, key).extend(file.rows())
    finally:
        file.close()
    missing = sorted(set(heads) - {entry.head for entry in entries})
    if missing:
        raise damage(path, f"it lacks the entry with the head {missing[0]}")
    return entries


def _number(release: Release) -> int:
    return release.number


def _check_codes(codes, shape: tuple[int, int]) -> np.ndarray:
    codes = np.asarray(codes)
    if codes.dtype != np.int32:
        raise TypeError(f"draw returned {codes.dtype}: codes are int32")
    if codes.shape != shape:
        raise ValueError(f"draw returned shape {codes.shape}: give {shape}")
    return codes


def _code(data: bytes) -> np.ndarray:
    """Return stored bytes as native int32, read-only."""
    code = np.frombuffer(data, "<i4").astype(np.int32)
    code.flags.writeable = False
    return code
