"""One photo file after the other, with one method and key."""

import contextlib
import dataclasses
import hashlib
import pathlib

import jax
import platformdirs

from identitydp_jax import __version__
from identitydp_jax.anonymize import compositing, files, images, methods, photos
from identitydp_jax.anonymize.manifest import Manifest, sha256
from identitydp_jax.checks import UserError
from identitydp_jax.data.detection import Detector
from identitydp_jax.privacy import PrivacySetting, keys

_MAX_BYTES = 1 << 30  # of an input file; 200 megapixels fit in any of the formats


@dataclasses.dataclass(frozen=True)
class Batch:
    """What every photo of a run shares."""

    method: methods.Method
    detector: Detector
    master: keys.MasterKey
    min_face: int
    on_no_face: str

    @classmethod
    def prepare(cls, args) -> "Batch":
        """Load the method, the detector and the key that the command's options name."""
        method = _method(args)
        if args.audit_seed is not None:
            master = keys.audit_master(args.audit_seed)
        else:
            default = platformdirs.user_data_path("identitydp") / "master.key"
            master = keys.load_or_create(args.key_file or default)
        return cls(method, Detector(), master, args.min_face, args.on_no_face)

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
            )
        except photos.NoFaceFound:
            if self.on_no_face == "blur":
                return compositing.blur_photo(pixels), "blurred", []
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
        options = f"min_face={self.min_face};on_no_face={self.on_no_face};{self.method.policy}"
        digest = hashlib.sha256(data).digest()
        key = keys.image_key(self.master, digest=digest, policy=f"manifest tag;{options}")
        return "".join(f"{word:08x}" for word in jax.random.key_data(key).tolist())


def _method(args) -> methods.Method:
    """Return the method of the command; options that say nothing to it are refused."""
    options = {name: getattr(args, name) for name in ("mechanism", "epsilon", "calibration")}
    given = {name: value for name, value in options.items() if value is not None}
    setting = PrivacySetting(**given)
    method = methods.parse(args.method, model=args.model or "default", setting=setting)
    if isinstance(method, methods.Baseline):
        useless = [*given, "model"] if args.model else [*given]
    elif args.method != "identitydp":  # it says mechanism and epsilon itself
        useless = [name for name in given if name != "calibration"]
    else:
        useless = []
    if useless:
        names = ", ".join(f"--{name}" for name in useless)
        raise UserError(f"{names} does not go with --method {args.method}: leave one of them out")
    return method


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
