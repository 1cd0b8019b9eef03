"""The empirical L1 sensitivity: the paper's Delta, the faces it comes from, and its file."""

import base64
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable

from identitydp_jax import storage
from identitydp_jax.checks import UserError, parse_json

EMBEDDING_DIM = 512  # of ArcFace's encoders, and where nothing else is said
MAX_DIMENSION = 512  # coordinates whose sums the 32-bit integers of the mechanisms hold
_FORMAT = "identitydp calibration 1"
_MOST = 2 * math.sqrt(MAX_DIMENSION) * (1 + 1e-6)  # embeddings are unit vectors in float32
_MEMBER = 8  # bytes of a digest: 5,000 members meet a photo that is none by chance in 2^-51


@dataclasses.dataclass(frozen=True)
class EmpiricalSensitivity:
    """The largest L1 distance between the embeddings of a stated set of faces; of `measured`.

    Attributes:
      value: the distance, Delta in the paper, rounded up; above 0, at most 2 sqrt(512)
        but for a millionth.
      mean: of all distances.
      encoder_sha256: hexadecimal SHA-256 of the pretrained file of the identity encoder.
      description: how the photos were found and embedded.
      left_out: how many photos gave no face of their own: unreadable, without a face, or the same
        as another.
      command: that measured it, as it was typed.
      version: of this package, that measured it.
      members: one per face, the first 8 bytes of the SHA-256 of its photo's content. Who has a
        photo can tell from them that it was in the set.
    """

    value: float
    mean: float
    encoder_sha256: str
    description: str
    left_out: int
    command: str
    version: str
    members: frozenset[bytes] = dataclasses.field(repr=False)

    @property
    def faces(self) -> int:
        """How many faces were compared."""
        return len(self.members)

    @property
    def pairs(self) -> int:
        """How many pairs they make."""
        return math.comb(self.faces, 2)

    @functools.cached_property
    def set_sha256(self) -> str:
        """Names the set: the hexadecimal SHA-256 of its members, sorted and joined."""
        return hashlib.sha256(b"".join(sorted(self.members))).hexdigest()

    @property
    def name(self) -> str:
        """``paper:`` and the first 12 digits of the set's hash."""
        return f"paper:{self.set_sha256[:12]}"

    def contains(self, digest: bytes) -> bool:
        """Return whether a photo of exactly these pixels is in the set.

        Another photo of the same person, or the photo resized or compressed again, is not found.

        Args:
          digest: of the photo's upright pixels, by `anonymize.photos.content_digest`, 32 bytes.
        """
        return _member(digest) in self.members


def measured(digests: Iterable[bytes], **facts) -> EmpiricalSensitivity:
    """Return the record of a set of photos.

    Args:
      digests: of the photos' content, 32 bytes each.
      **facts: every other attribute.
    """
    return EmpiricalSensitivity(**facts, members=frozenset(map(_member, digests)))


def check_writable(path: pathlib.Path) -> None:
    """Raise `UserError` unless `write` can make or replace this file.

    What is there and is no intact calibration is never replaced.
    """
    if os.path.lexists(path):
        try:
            read(path)
        except UserError:
            raise UserError(
                f"{path} exists and is no intact calibration: name another --output"
            ) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(_unwritable(path, error)) from None


def write(path: pathlib.Path, record: EmpiricalSensitivity) -> None:
    """Write a calibration's JSON, so that `path` only ever stands for a whole one.

    Raises:
      UserError: something else is there, or it can't be written.
    """
    check_writable(path)
    content = _content(record)
    text = json.dumps(content | {"sha256": _checksum(content)}, indent=1) + "\n"
    try:
        storage.write(path, text.encode())
    except OSError as error:
        raise UserError(_unwritable(path, error)) from None


def read(path: pathlib.Path) -> EmpiricalSensitivity:
    """Read a calibration of `write`.

    The checksum finds damage and careless edits; it is no signature.

    Raises:
      UserError: there is none, it is damaged, or states what can't be.
    """
    try:
        content = parse_json(storage.read(path))
    except OSError as error:
        raise UserError(
            f"{path}: no calibration can be read here ({error.strerror}); make one by"
            " `identitydp calibrate`"
        ) from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(f"{path}: not a calibration of `identitydp calibrate`; name another file")
    if content.pop("sha256", None) != _checksum(content):
        raise UserError(f"{path}: damaged or edited; calibrate again")
    try:
        record = _record(content)
        sound = _content(record) == content and _is_sound(record)
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise UserError(f"{path}: states what no calibration can; calibrate again")
    return record


def _is_sound(record: EmpiricalSensitivity) -> bool:
    texts = record.encoder_sha256, record.description, record.command, record.version
    return (
        record.faces >= 2
        and all(len(member) == _MEMBER for member in record.members)
        and 0 < record.mean <= record.value <= _MOST
        and record.left_out >= 0
        and all(isinstance(text, str) for text in texts)
    )


def _content(record: EmpiricalSensitivity) -> dict:
    """Return what the file states; what follows from the rest is there for its readers."""
    members = base64.b64encode(b"".join(sorted(record.members))).decode()
    derived = {name: getattr(record, name) for name in ("name", "faces", "pairs", "set_sha256")}
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {"format": _FORMAT} | derived | fields | {"members": members}


def _record(content: dict) -> EmpiricalSensitivity:
    joined = base64.b64decode(content["members"], validate=True)
    members = (joined[i : i + _MEMBER] for i in range(0, len(joined), _MEMBER))
    names = [field.name for field in dataclasses.fields(EmpiricalSensitivity)]
    fields = {name: content[name] for name in names} | {"members": frozenset(members)}
    return EmpiricalSensitivity(**fields)


def _checksum(content: dict) -> str:
    """Return the hexadecimal SHA-256 of the content as compact JSON with sorted keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _member(digest: bytes) -> bytes:
    if not isinstance(digest, bytes) or len(digest) != hashlib.sha256().digest_size:
        raise ValueError("a digest is 32 bytes of SHA-256")
    return digest[:_MEMBER]


def _unwritable(path: pathlib.Path, error: OSError) -> str:
    return f"{path}: the calibration can't be written ({error.strerror}); name another --output"
