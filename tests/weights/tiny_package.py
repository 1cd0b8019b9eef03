"""A tiny package on this machine, as each kind of archive, instead of the real ones on an index."""

import io
import json
import pathlib
import tarfile
import zipfile

CONTENTS = {"one.onnx": b"weights of one" * 100, "two.onnx": b"weights of two"}
_METADATA = b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"


def build_wheel(folder: pathlib.Path, contents=CONTENTS, *, tag="py3-none-any") -> pathlib.Path:
    """Write a wheel that pip accepts, the same bytes for the same contents."""
    info = "tiny_weights-1.0.dist-info"
    files = {f"tiny_weights/{name}": content for name, content in contents.items()}
    files[f"{info}/METADATA"] = _METADATA
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    files[f"{info}/RECORD"] = b""
    folder.mkdir(exist_ok=True)
    path = folder / f"tiny_weights-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(zipfile.ZipInfo(name), content)
    return path


def build_sdist(folder: pathlib.Path, *, setup: str = "", contents=CONTENTS) -> pathlib.Path:
    """Write a Python source archive whose setup.py holds the given code."""
    top = "tiny_weights-1.0"
    files = {f"{top}/tiny_weights/{name}": content for name, content in contents.items()}
    files |= {f"{top}/PKG-INFO": _METADATA, f"{top}/setup.py": setup.encode()}
    return _write_tar(folder / f"{top}.tar.gz", files)


def build_npm(folder: pathlib.Path, *, script: str = "") -> pathlib.Path:
    """Write an npm package with a scope, whose scripts are all the given shell command."""
    names = ("prepack", "prepare", "postpack", "preinstall", "install", "postinstall")
    manifest = {
        "name": "@tiny/weights",
        "version": "1.0.0",
        "scripts": dict.fromkeys(names, script),
    }
    files = {f"package/tiny_weights/{name}": content for name, content in CONTENTS.items()}
    files["package/package.json"] = json.dumps(manifest).encode()
    return _write_tar(folder / "tiny-weights-1.0.0.tgz", files)


def _write_tar(path: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
