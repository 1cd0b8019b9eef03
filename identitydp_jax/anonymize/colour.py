"""Colour profiles: what of them is kept, without anything else that a file may carry.

A profile is never copied, as it may hold anything, a picture too. One that amounts to three
primaries and a curve for each is written anew from these numbers; the colours of any other are
converted.
"""

import io
import struct

import numpy as np
from PIL import Image, ImageCms

from identitydp_jax.checks import UserError

_MOST = 1 << 24  # bytes of a profile that is looked at
_D50 = (0.9642, 1.0, 0.8249)
# Curves of ICC.1:2022, 10.18, by number of their type: how many parameters each has.
_PARAMETERS = (1, 3, 4, 5, 7)
_SRGB = (3, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
_REC709 = (3, (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081))
_PROPHOTO = (3, (1.8, 1.0, 0.0, 1 / 16, 16 / 512))
_SAME_CURVE = 1 / 512  # a sampled curve this close to a known one is that one

# ITU-T H.273: x and y of red, green, blue and white, and curves; what is left out is not SDR RGB.
_D65, _DCI = (0.3127, 0.3290), (0.314, 0.351)
_PRIMARIES = {
    1: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), _D65),
    7: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), _D65),
    9: ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046), _D65),
    11: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), _DCI),
    12: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), _D65),
}
_CURVES = {4: (0, (2.2,)), 5: (0, (2.8,)), 8: (0, (1.0,)), 13: _SRGB} | dict.fromkeys(
    (1, 6, 14, 15), _REC709
)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def rewrite(profile: bytes) -> bytes | None:
    """Return a profile of the same colours that holds nothing else, or None if there is none.

    Args:
      profile: an ICC profile of RGB or grey, and what may follow it.
    """
    try:
        space, tags = _parse(profile)
        if space == b"GRAY":
            return _build(space, {b"wtpt": _xyz(tags[b"wtpt"])}, {b"kTRC": _curve(tags[b"kTRC"])})
        if space != b"RGB " or b"A2B0" in tags or b"D2B0" in tags:
            return None
        colours = {name: _xyz(tags[name]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")}
        curves = {name: _curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")}
    except (KeyError, ValueError, struct.error):
        return None
    return _build(space, {b"wtpt": _D50} | colours, curves)


def from_code_points(primaries: int, transfer: int) -> bytes | None:
    """Return the profile that the code points of ITU-T H.273 stand for.

    None is that of sRGB, or where they leave the colours open.

    Raises:
      UserError: they stand for a high dynamic range, or for no known colours.
    """
    if primaries in (1, 2) and transfer in (1, 2, 6, 13):
        return None  # every viewer shows video's curve in a still picture as sRGB's
    if transfer in (16, 18):
        raise UserError("high dynamic range (PQ or HLG): export it with a standard range first")
    try:
        chromaticities = _PRIMARIES[1 if primaries == 2 else primaries]
        curve = _CURVES[13 if transfer == 2 else transfer]
    except KeyError:
        raise UserError(
            f"colours of code points {primaries}, {transfer}: convert the photo to sRGB"
        ) from None
    red, green, blue, white = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in chromaticities)
    basis = np.stack([red, green, blue], axis=1)
    basis = basis * np.linalg.solve(basis, white)
    cone = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
    basis = np.linalg.inv(_BRADFORD) @ cone @ _BRADFORD @ basis
    colours = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), basis.T.tolist(), strict=True))
    return _build(
        b"RGB ", {b"wtpt": _D50} | colours, dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    )


def to_srgb(picture: Image.Image, profile: bytes) -> Image.Image | None:
    """Return a picture converted from its profile to sRGB, of mode RGB; None if that fails."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile[:_MOST]))
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, source, srgb, outputMode="RGB")
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None


def _parse(profile: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Return colour space and tags of a profile, cut to the size that it declares."""
    size, count = struct.unpack_from(">I", profile)[0], struct.unpack_from(">I", profile, 128)[0]
    if profile[36:40] != b"acsp" or not 132 + 12 * count <= size <= len(profile) <= _MOST:
        raise ValueError("no profile")
    tags = {}
    for index in range(count):
        name, start, length = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        if start + length > size:
            raise ValueError("a tag beyond the end")
        tags[name] = profile[start : start + length]
    return profile[16:20], tags


def _xyz(tag: bytes) -> tuple[float, ...]:
    if tag[:4] != b"XYZ ":
        raise ValueError("no colour")
    return tuple(number / 65536 for number in struct.unpack_from(">3i", tag, 8))


def _curve(tag: bytes) -> tuple[int, tuple[float, ...]]:
    """Return type and parameters of a curve; a sampled one has to be one of the known."""
    if tag[:4] == b"para":
        kind = struct.unpack_from(">H", tag, 8)[0]
        if kind >= len(_PARAMETERS):
            raise ValueError("no curve")
        numbers = struct.unpack_from(f">{_PARAMETERS[kind]}i", tag, 12)
        return kind, tuple(number / 65536 for number in numbers)
    if tag[:4] != b"curv":
        raise ValueError("no curve")
    count = struct.unpack_from(">I", tag, 8)[0]
    if count == 0:
        return 0, (1.0,)
    if count == 1:
        return 0, (struct.unpack_from(">H", tag, 12)[0] / 256,)
    samples = np.array(struct.unpack_from(f">{count}H", tag, 12)) / 65535
    return _known_curve(samples)


def _known_curve(samples: np.ndarray) -> tuple[int, tuple[float, ...]]:
    x = np.linspace(0, 1, len(samples))
    middle = (x > 0.2) & (samples > 0) & (x < 1)
    gamma = np.log(samples[middle]) @ np.log(x[middle]) / max(np.sum(np.log(x[middle]) ** 2), 1e-9)
    known = (_SRGB, _REC709, _PROPHOTO, (0, (round(gamma * 256) / 256,)))
    errors = [np.abs(_evaluate(*curve, x) - samples).max() for curve in known]
    if min(errors) > _SAME_CURVE:
        raise ValueError("a curve of its own")
    return known[int(np.argmin(errors))]


def _evaluate(kind: int, numbers: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    if kind == 0:
        return x ** numbers[0]
    g, a, b, c, d = numbers
    return np.where(x >= d, np.maximum(a * x + b, 0) ** g, c * x)


def _build(space: bytes, colours: dict, curves: dict) -> bytes:
    """Return a display profile of version 4 (ICC.1:2022) of colours (X, Y, Z) and curves."""
    tags = {b"desc": _text("Colours of the photo"), b"cprt": _text("No copyright")}
    for name, values in colours.items():
        tags[name] = b"XYZ \0\0\0\0" + struct.pack(">3i", *map(_fixed, values))
    for name, (kind, numbers) in curves.items():
        packed = struct.pack(f">{len(numbers)}i", *map(_fixed, numbers))
        tags[name] = b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + packed
    table, data, start = b"", b"", 132 + 12 * len(tags)
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, start + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I4xI", start + len(data), 0x04400000) + b"mntr" + space + b"XYZ "
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">3i", *map(_fixed, _D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(encoded), 28) + encoded


def _fixed(number: float) -> int:
    if not abs(number) < 32768:
        raise ValueError("beyond the range of a profile")
    return round(number * 65536)
