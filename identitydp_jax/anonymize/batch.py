"""One photo file after the other, with one method and key."""

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import stat
from collections.abc import Callable

import numpy as np

from identitydp_jax import __version__, storage
from identitydp_jax.anonymize import (
    compositing,
    files,
    formats,
    images,
    methods,
    photos,
    transparency,
)
from identitydp_jax.anonymize.manifest import INTENDED, Manifest, is_sealed, sealed, sha256
from identitydp_jax.checks import UserError
from identitydp_jax.data.detection import Detector
from identitydp_jax.models import declared
from identitydp_jax.privacy import keys, ledger, ledger_head, setting
from identitydp_jax.privacy.accounting import Budget
from identitydp_jax.privacy.checked_release import check_answers


@dataclasses.dataclass(frozen=True)
class Batch:
    """What every photo of a run shares."""

    method: methods.Method
    detector: Detector
    master: keys.MasterKey
    min_face: int
    on_no_face: str
    account: photos.Account | None = None
    other_format: str = "PNG"  # of a photo whose own format cannot be written here

    @classmethod
    def prepare(cls, args) -> "Batch":
        """Load the method, the detector, the key and the ledger that the command's options name.

        Raises:
          UserError: one of them can't be had, or the compiled mechanism gives wrong codes.
        """
        method = _method(args)
        if isinstance(method, methods.IdentityDP):
            check_answers(method.setting.mechanism, method.setting.dimension)
        if args.audit_seed is not None:
            master = keys.audit_master(args.audit_seed)
        else:
            master = keys.load_or_create(args.key_file or keys.default_path())
        account = _account(args, method, master)
        other = args.other_format.upper()
        return cls(method, Detector(), master, args.min_face, args.on_no_face, account, other)

    def __enter__(self) -> "Batch":
        """Return itself."""
        return self

    def __exit__(self, *_):
        """Close the ledger."""
        if self.account is not None:
            self.account.ledger.close()

    def describe(self) -> str:
        """Return one line for the user: method, key, and whether the noise is a secret."""
        commitment = keys.commitment(self.master)
        text = f"{self.method.summary}, key {commitment}"
        if commitment.startswith("audit-seed"):
            text += "; anybody can repeat this run and undo its noise"
        return text

    def do(self, job: files.Job, output: pathlib.Path, manifest: Manifest, *, overwrite: bool):
        """Anonymize one file and return what became of it, a count of the summary.

        Raises:
          UserError, OSError or anything else: nothing was written for this photo.
        """
        data = storage.read(job.source)
        tag, name = self._tag(data), job.name

        def is_done() -> bool:
            _refuse_link(output / name)
            known = manifest.find(name)
            return not overwrite and _is_done(output / name, known, tag, self.master)

        if is_done():
            return "already done"
        image = images.decode(data)
        called = formats.misnamed(name, image.format)
        if not formats.can_write(image.format):
            image = images.convert(image, self.other_format)
            name = formats.add_suffix(name, image.format)
            if is_done():
                return "already done"
        encoded, done = self._result(image)
        record = self._record(job) | {"output": name, "output_sha256": sha256(encoded), "tag": tag}
        record |= done | {"notes": [*called, *done["notes"]]}
        # Before and after: the manifest knows every result, and calls none done that is not there.
        manifest.append(sealed(record | {"status": INTENDED}, self.master))
        mode = 0o600 | stat.S_IMODE(job.source.stat().st_mode) & 0o666
        storage.write(output / name, encoded, within=output, mode=mode)
        manifest.append(sealed(record, self.master))
        return record["status"]

    def stream(self, data: bytes) -> tuple[bytes, str]:
        """Return the anonymized file of a file, and what became of it; nothing is recorded.

        Raises:
          UserError or anything else: there is no result.
        """
        image = images.decode(data)
        if not formats.can_write(image.format):
            image = images.convert(image, self.other_format)
        encoded, done = self._result(image)
        return encoded, done["status"]

    def record_failure(self, job: files.Job, manifest: Manifest, reason: str) -> None:
        """Note in the manifest that nothing was written for a photo."""
        with contextlib.suppress(OSError):  # the reason is on the screen already
            record = self._record(job) | {"status": "failed", "reason": reason}
            manifest.append(sealed(record, self.master))

    def _result(self, image: images.DecodedImage) -> tuple[bytes, dict]:
        """Return the file that shows an image anonymized, and the record of what was done."""
        before = image.with_alpha()
        pixels, status, records = self._anonymize(before)
        notes = list(image.notes)
        if (before[..., 3:] != pixels[..., 3:]).any():
            notes.append("transparency changed where it showed a face")
        if records and all(record.handled == "pixelated" for record in records):
            status = "pixelated"
        height, width = pixels.shape[:2]
        faces = [self._describe_face(record) for record in records]
        done = {"status": status, "size": [width, height], "notes": notes, "faces": faces}
        return images.encode(image, pixels), done

    def _anonymize(self, pixels):
        """Return the result's pixels, its status, and the records of its faces."""
        try:
            result, records = photos.anonymize_photo(
                self.method,
                pixels,
                master=self.master,
                detector=self.detector,
                min_face=self.min_face,
                account=self.account,
            )
        except photos.NoFaceFound:
            if self.on_no_face == "blur":
                return _blurred(pixels), "blurred", []
            if self.on_no_face == "copy":
                return pixels, "copied", []
            raise UserError(
                "no face found, so nothing is written (--on-no-face blur or copy changes that)"
            ) from None
        return result, "anonymized", records

    def _record(self, job: files.Job) -> dict:
        return {
            "identitydp": __version__,
            "input": str(job.source),
            "method": self.method.name,
            **self.method.record,
            "key": keys.commitment(self.master),
            "min_face": self.min_face,
            "on_no_face": self.on_no_face,
        }

    def _describe_face(self, record: photos.FaceRecord) -> dict:
        """Return a face's record; one that was pixelated has no epsilon."""
        face = dataclasses.asdict(record)
        if record.handled == "anonymized":
            face |= self.method.face_record
        return face

    def _tag(self, data: bytes) -> str:
        """Return a keyed hash of the input and all that changes its result, to recognise it by."""
        options = f"min_face={self.min_face};on_no_face={self.on_no_face};{self.method.recipe}"
        if self.account is not None and self.account.subject is not None:
            options += f";subject={self.account.subject}"
        return keys.tag(self.master, digest=hashlib.sha256(data).digest(), text=options)


def _method(args) -> methods.Method:
    """Return the method of the command; options that say nothing to it are refused."""
    names = ("privacy", "target_similarity", "mechanism", "epsilon", "calibration")
    given = [name for name in names if getattr(args, name) is not None]
    spec, chosen = args.method, _setting(args, given)
    preserve = None if args.preserve is None else declared.parse(args.preserve)
    method = methods.parse(spec, model=args.model or "default", setting=chosen, preserve=preserve)
    if isinstance(method, methods.Baseline):
        others = [name for name in ("model", "preserve") if getattr(args, name) is not None]
        useless = [*given, *others]
    elif spec != "identitydp":  # it says mechanism and epsilon itself
        useless = [name for name in given if name != "calibration"]
    else:
        useless = []
    if useless:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
        raise UserError(f"{options} does not go with --method {spec}: leave one of them out")
    return method


def _setting(args, given: list[str]) -> Callable[[int], setting.PrivacySetting]:
    """Return the setting that the options ask for in words, by likeness or in numbers.

    As `methods.parse` takes it: the model says how long embeddings are.
    """
    if "privacy" in given or "target_similarity" in given:
        allowed = {"privacy"} if "privacy" in given else {"target_similarity", "mechanism"}
        if clash := [name for name in given if name not in allowed]:
            first = "privacy" if "privacy" in given else "target-similarity"
            raise UserError(
                f"--{first} chooses the setting: leave --{clash[0].replace('_', '-')} out"
            )
    if args.privacy is not None:
        return setting.LEVELS[args.privacy].at
    if args.target_similarity is not None:
        mechanism = args.mechanism or "privunit"
        return functools.partial(setting.for_similarity, args.target_similarity, mechanism)
    return setting.PrivacySetting(**{name: getattr(args, name) for name in given}).at


def _account(args, method: methods.Method, master: keys.MasterKey) -> photos.Account | None:
    """Open the ledger; none for what has no guarantee: baselines and noise that is no secret."""
    budget = Budget(args.budget_epsilon, args.budget_rho, args.budget_epsilon_at_delta, args.delta)
    if isinstance(method, methods.IdentityDP) and args.audit_seed is None:
        key_file = args.key_file or keys.default_path()
        path = args.ledger or ledger.default_path(key_file)
        head_file = ledger_head.path_beside(key_file, path)
        secret = keys.ledger_key(master)
        opened = ledger.Ledger(path, secret, budget=budget, head_file=head_file)
        return photos.Account(opened, args.subject)
    names = ("ledger", "subject", "budget_epsilon", "budget_rho", "budget_epsilon_at_delta")
    for name in names:
        if getattr(args, name) is not None:
            what = "--audit-seed" if args.audit_seed is not None else f"--method {args.method}"
            raise UserError(
                f"--{name.replace('_', '-')} does not go with {what}, which charges nothing:"
                " leave one of them out"
            )
    return None


def _blurred(pixels):
    """Return a photo (H, W, 3) or (H, W, 4) blurred, opaque unless its alpha shows nothing."""
    if pixels.shape[2] == 3:
        return compositing.blur_photo(pixels)
    alpha = pixels[..., 3:]
    if alpha.min() == alpha.max():
        return np.dstack([compositing.blur_photo(pixels[..., :3]), alpha])
    flat = compositing.blur_photo(transparency.flatten(pixels))
    return np.dstack([flat, np.full_like(alpha, 255)])


def _refuse_link(result: pathlib.Path) -> None:
    if result.is_symlink():
        raise UserError(f"{result} is a link, so nothing is written there: remove it")


def _is_done(result: pathlib.Path, record: dict | None, tag: str, master) -> bool:
    """Return whether the file is there, and raise unless the same input and settings gave it."""
    if not result.exists():
        return False
    if record is None:
        raise UserError(f"{result} exists and is not in the manifest: --overwrite replaces it")
    if record.get("tag") != tag:
        raise UserError(
            f"{result} is from another photo, key or setting: --overwrite replaces it, or name"
            " another --output"
        )
    if not is_sealed(record, master):
        raise UserError(
            f"{result}: its line in the manifest was changed or is not of this program, so it is"
            " not believed: --overwrite replaces it"
        )
    if record["output_sha256"] != sha256(storage.read(result)):
        raise UserError(f"{result} was changed after it was written: --overwrite replaces it")
    return record["status"] != INTENDED  # else a run was stopped before it noted its success
