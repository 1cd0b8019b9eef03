"""The ledger: what each subject has been charged, and the noisy code that the charge bought.

One SQLite file. Entry 0 names the ledger; every other entry is one release: its subject (as a
keyed hash), what it cost (`Charge`) and the code. The same subject and policy get that code back
instead of fresh noise, because noise that is drawn anew averages out.

**Order of events.** Within one transaction, which keeps all other writers out: the entries since
the last look are verified, what is remembered is found, the budget is checked, the rest is drawn
and written. Only after the commit has reached the disk do codes leave `Ledger.release`. So a
process that dies at any moment has either charged and remembered a code, or released none.

**What verification finds.** An entry's head is SHA-256 of the head before it and its body, and the
body holds the SHA-256 of the code: an entry that is changed, removed, inserted or moved breaks the
chain. Who lacks the ledger's key may compute another chain, but not its seals, HMACs of the heads,
which are checked wherever the key is given. What the file alone can *not* show is that its newest
entries are gone, or that all of it is an older copy. The heads that releases return do show it:
put them into receipts, keep those elsewhere, and give them to `read`. Who has the key can rewrite
whatever is not attested by a head that somebody else keeps. And a photo that was anonymized with
another ledger, or none, is in no account here.

**What it tells its reader.** No names: a tag is HMAC-SHA-256 of the subject under the ledger's key.
But it tells which releases have one subject, when they were made, and the codes: who has this file
and the key of the noise has the faces. The file has mode 0600.
"""

import dataclasses
import datetime
import os
import pathlib
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.privacy.accounting import Budget, Loss, PureLoss, epsilon_at
from identitydp_jax.privacy.calibration import EMBEDDING_DIM
from identitydp_jax.privacy.ledger_chain import (
    FORMAT,
    NO_HEAD,
    Chain,
    Entry,
    Remembered,
    commit,
    digest,
    mac,
    make_row,
)
from identitydp_jax.privacy.ledger_file import LedgerFile, create, damage

_KEY_BYTES = 32
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

    Raises:
      UserError: the file is damaged, no ledger, of another key, not a regular file, has
        permissions wider than 0600, or cannot be read, made or written.
    """

    def __init__(self, path: str | os.PathLike, key: bytes, *, budget: Budget | None = None):
        if len(key) != _KEY_BYTES:
            raise ValueError(f"the ledger's key has {len(key)} bytes: give {_KEY_BYTES}")
        path = pathlib.Path(path)
        if not os.path.lexists(path):
            first = {"ledger": FORMAT, "id": secrets.token_hex(16), "key": commit(key)}
            create(path, make_row(0, first | {"time": _now()}, b"", after=NO_HEAD, key=key))
        self._key, self._budget = bytes(key), budget or Budget()
        self._file, self._chain = LedgerFile(path), Chain(path, self._key)
        try:
            with self._file.transaction():
                self._catch_up()
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
        return [releases[tag] for tag in tags]

    def _catch_up(self) -> None:
        """Verify what was written since the last look."""
        self._chain.extend(self._file.rows(self._chain.number))

    def _check_budget(self, tag: str, loss: Loss) -> None:
        counts = self._chain.losses.get(tag)
        spent = list(counts.elements()) if counts else []
        excess = self._budget.excess([*spent, loss])
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
            row = make_row(number, _record(tag, charge), data, after=head, key=self._key)
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


def _record(tag: str, charge: Charge) -> dict:
    """Return the body of a release."""
    pure = isinstance(charge.loss, PureLoss)
    return {
        "time": _now(),
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


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
