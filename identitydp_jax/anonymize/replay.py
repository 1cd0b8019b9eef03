"""Doing again, bit for bit, what a manifest says was done with an audit seed."""

import functools
import pathlib
import re
import tempfile
from collections.abc import Iterator

from identitydp_jax.anonymize import batch, files, manifest, methods
from identitydp_jax.checks import UserError
from identitydp_jax.privacy import keys
from identitydp_jax.privacy.audit import Finding
from identitydp_jax.privacy.setting import PrivacySetting

_AUDIT_KEY = re.compile(r"audit-seed:(\d{1,19})")


def replay(folder: pathlib.Path) -> Iterator[Finding]:
    """Anonymize every photo of a folder's manifest again, and compare.

    Args:
      folder: an output folder of `identitydp anonymize --audit-seed N`, not changed. Inputs are
        looked for where the manifest says, from the current folder.

    Yields:
      a finding for each output: passed if the recorded SHA-256 is that of the file in the folder
      and of the photo anonymized again.

    Raises:
      UserError: there is no manifest, or no output in it.
    """
    records = _read(folder)
    for name, record in records.items():
        try:
            problem = _replay(folder, name, record)
        except (UserError, OSError) as error:
            problem = str(error)
        figures = problem or f"{record['status']} again from {record['input']}, the same bytes"
        yield Finding("replay", name, not problem, figures, float(bool(problem)))


def _read(folder: pathlib.Path) -> dict[str, dict]:
    """Return the last record of each output."""
    try:
        records = manifest.read(folder)
    except OSError as error:
        raise UserError(
            f"cannot read {folder / manifest.NAME} ({error.strerror}): name an output folder of"
            " identitydp anonymize"
        ) from None
    if not records:
        raise UserError(f"{folder / manifest.NAME} lists no output: nothing to replay")
    return records


def _replay(folder: pathlib.Path, name: str, record: dict) -> str:
    """Return what is wrong with one output, or ""."""
    seed = _AUDIT_KEY.fullmatch(record["key"])
    if not seed:
        return "made with a secret key, not with --audit-seed: it cannot be done again"
    expected, output = record["output_sha256"], folder / name
    if not output.exists():
        return f"{output} is missing"
    if manifest.sha256(output.read_bytes()) != expected:
        return f"{output} was changed after it was written"
    source = pathlib.Path(record["input"])
    if not source.exists():
        return f"the input {source} is missing: run this where anonymize ran"
    calibrations = {face["calibration"] for face in record["faces"] if "calibration" in face}
    done_by = _batch(
        record["method"],
        min(calibrations, default="certified-l2"),
        record.get("model", "default"),
        tuple(record.get("preserve", ())),
        int(seed[1]),
        record["min_face"],
        record["on_no_face"],
    )
    if done_by.method.record.get("model_sha256") != record.get("model_sha256"):
        return f"made with another model than what {record['model']} is now"
    with tempfile.TemporaryDirectory() as made:
        made = pathlib.Path(made)
        with manifest.Manifest(made) as log:
            done_by.do(files.Job(source, name), made, log, overwrite=False)
        found = manifest.sha256((made / name).read_bytes())
    return "" if found == expected else f"gives another file now, SHA-256 {found[:12]}..."


@functools.lru_cache(maxsize=8)
def _batch(spec, calibration, model, preserve, seed: int, min_face: int, on_no_face: str):
    """Return what made a record, without a ledger, which an audit seed never charges."""
    setting = PrivacySetting(calibration=calibration)
    method = methods.parse(spec, model=model, setting=setting.at, preserve=preserve)
    return batch.Batch(method, batch.Detector(), keys.audit_master(seed), min_face, on_no_face)
