"""One photo file after the other, with one method and key."""

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable

import numpy as np

from identitydp_jax import __version__
from identitydp_jax.anonymize import compositing, files, images, methods, photos, second_opinion
from identitydp_jax.anonymize.manifest import Manifest, sha256
from identitydp_jax.checks import UserError
from identitydp_jax.data.detection import Detector
from identitydp_jax.data.second_detector import SecondDetector
from identitydp_jax.privacy import keys, ledger, setting
from identitydp_jax.privacy.accounting import Budget

_MAX_BYTES = 1 << 30  # of an input file; 200 megapixels fit in any of the formats


@dataclasses.dataclass(frozen=True)
class Batch:
    """What every photo of a run shares."""

    method: methods.Method
    detector: Detector
    master: keys.MasterKey
    min_face: int
    on_no_face: str
    account: photos.Account | None = None
    second: SecondDetector | None = None

    @classmethod
    def prepare(cls, args) -> "Batch":
        """Load the method, the detector, the key and the ledger that the command's options name."""
        method = _method(args)
        if args.audit_seed is not None:
            master = keys.audit_master(args.audit_seed)
        else:
            master = keys.load_or_create(args.key_file or keys.default_path())
        account = _account(args, method, master)
        second = SecondDetector() if args.check == "on" else None
        return cls(method, Detector(), master, args.min_face, args.on_no_face, account, second)

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
        data = _read(job.source)
        tag, result = self._tag(data), output / job.name
        if result.exists() and not overwrite:
            _check_done(result, manifest.find(job.name), tag)
            return "already done"
        image = images.decode(data)
        pixels, status, records = self._anonymize(image.pixels)
        encoded = images.encode(image, pixels)
        height, width = pixels.shape[:2]
        # The manifest first: a result that it does not know would stop the run that resumes.
        manifest.append(
            self._record(job)
            | {"output": job.name, "output_sha256": sha256(encoded), "tag": tag, "status": status}
            | {"size": [width, height], "notes": list(image.notes)}
            | {"faces": [self._describe_face(record) for record in records]}
        )
        files.write(result, encoded)
        return status

    def record_failure(self, job: files.Job, manifest: Manifest, reason: str) -> None:
        """Note in the manifest that nothing was written for a photo."""
        with contextlib.suppress(OSError):  # the reason is on the screen already
            manifest.append(self._record(job) | {"status": "failed", "reason": reason})

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
                second=self.second,
            )
        except photos.NoFaceFound:
            if self.on_no_face == "blur":
                return compositing.blur_photo(pixels), "blurred", []
            if self.on_no_face == "copy":
                if self.second is not None:
                    second_opinion.check_covered(pixels, np.zeros((0, 4)), self.second)
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
        options = f"min_face={self.min_face};on_no_face={self.on_no_face};{self.method.policy}"
        if self.account is not None and self.account.subject is not None:
            options += f";subject={self.account.subject}"
        return keys.tag(self.master, digest=hashlib.sha256(data).digest(), text=options)


def _method(args) -> methods.Method:
    """Return the method of the command; options that say nothing to it are refused."""
    names = ("privacy", "target_similarity", "mechanism", "epsilon", "calibration")
    given = [name for name in names if getattr(args, name) is not None]
    spec, chosen = args.method, _setting(args, given)
    method = methods.parse(spec, model=args.model or "default", setting=chosen)
    if isinstance(method, methods.Baseline):
        useless = [*given, "model"] if args.model else given
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
        path = args.ledger or ledger.default_path(args.key_file or keys.default_path())
        opened = ledger.Ledger(path, keys.ledger_key(master), budget=budget)
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


def _read(path: pathlib.Path) -> bytes:
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"larger than {_MAX_BYTES >> 30} GiB: not a photo")
    return path.read_bytes()


def _check_done(result: pathlib.Path, record: dict | None, tag: str) -> None:
    """Raise unless the file is what the same input and settings gave."""
    if record is None:
        raise UserError(f"{result} exists and is not in the manifest: --overwrite replaces it")
    if record.get("tag") != tag:
        raise UserError(
            f"{result} is from another photo, key or setting: --overwrite replaces it, or name"
            " another --output"
        )
    if record["output_sha256"] != sha256(result.read_bytes()):
        raise UserError(f"{result} was changed after it was written: --overwrite replaces it")
