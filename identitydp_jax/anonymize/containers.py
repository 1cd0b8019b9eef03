"""What Pillow does not read of PNG and JPEG files as every viewer does."""

import dataclasses
import zlib

from PIL import Image, ImageChops

from identitydp_jax.anonymize import formats
from identitydp_jax.checks import UserError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_UPRIGHT = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # texts that may turn the picture
_COLOUR_BYTES = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
_MOST_TEXT = 1 << 20
_MOST_PROFILE = 1 << 24
# Of sRGB, in 100,000ths: gamma, and x and y of white, red, green and blue.
_SRGB_GAMMA = 45455
_SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)

_END = b"\xff\xd9"
_NOISE = bytes(range(7, 247, 3))  # entropy-coded data of no meaning, without a marker


@dataclasses.dataclass(frozen=True)
class Png:
    """A PNG file without its texts, whatever their size.

    Attributes:
      data: the file.
      profile: its ICC profile, or None.
      colours: the chunks that say which colours are meant, by name, unless they amount to sRGB.
    """

    data: bytes
    profile: bytes | None
    colours: dict[bytes, bytes]


def split_png(data: bytes) -> Png:
    """Take a PNG file apart; what is no whole chunk stays for the decoder to judge."""
    kept, place, profile, colours = [_SIGNATURE], len(_SIGNATURE), None, {}
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        name, content = data[place + 4 : place + 8], data[place + 8 : end - 4]
        if end > len(data):
            break
        if name == b"iCCP":
            profile = _inflate(content[content.find(b"\0") + 2 :], _MOST_PROFILE)
        elif name in _COLOUR_BYTES:
            if len(content) == _COLOUR_BYTES[name]:
                colours[name] = content
        elif name not in _TEXT or (content.startswith(_UPRIGHT) and _is_small(name, content)):
            kept.append(data[place:end])
        place = end
    kept.append(data[place:])
    return Png(b"".join(kept), profile, _unusual(colours, profile))


def load(picture: Image.Image, data: bytes) -> Image.Image:
    """Decode an opened picture; return it, or the same from a JPEG file whose end mark is missing.

    Raises:
      OSError: it is damaged or truncated.
    """
    try:
        picture.load()
        return picture
    except OSError:
        if picture.format not in ("JPEG", "MPO") or data.endswith(_END):
            raise
        # A whole picture is the same whatever follows it; a torn one decodes what follows.
        data = data.rstrip(b"\xff")
        whole = formats.open_image(data + _END)
        other = formats.open_image(data + _NOISE + _END)
        whole.load()
        other.load()
        if ImageChops.difference(whole, other).getbbox():
            raise
        return whole


def code_points(data: bytes) -> tuple[int, int] | None:
    """Return primaries and transfer that an AVIF file states in place of a profile, or None."""
    place = data.find(b"colrnclx")
    if place < 0:
        return None
    numbers = data[place + 8 : place + 12]
    return int.from_bytes(numbers[:2], "big"), int.from_bytes(numbers[2:], "big")


def _is_small(name: bytes, content: bytes) -> bool:
    if name == b"tEXt":
        return len(content) <= _MOST_TEXT
    start = content.find(b"\0") + (2 if name == b"zTXt" else 3)
    if name == b"iTXt":
        if content[start - 2 : start - 1] == b"\0":
            return len(content) <= _MOST_TEXT
        start = content.find(b"\0", content.find(b"\0", start) + 1) + 1  # after its languages
    return _inflate(content[start:], _MOST_TEXT) is not None


def _inflate(data: bytes, most: int) -> bytes | None:
    """Return what is compressed, or None if that is damaged or more than `most` bytes."""
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, most)
    except zlib.error:
        return None
    return None if stream.unconsumed_tail else content


def _unusual(colours: dict[bytes, bytes], profile: bytes | None) -> dict[bytes, bytes]:
    """Leave out what amounts to sRGB, and what a stronger statement overrules."""
    if b"cICP" in colours:
        return {b"cICP": colours[b"cICP"]}
    if profile is not None or b"sRGB" in colours:
        return {}
    gamma = int.from_bytes(colours.get(b"gAMA", _SRGB_GAMMA.to_bytes(4, "big")), "big")
    places = colours.get(b"cHRM")
    numbers = places and [int.from_bytes(places[i : i + 4], "big") for i in range(0, 32, 4)]
    same = not numbers or all(
        abs(a - b) <= 100 for a, b in zip(numbers, _SRGB_CHROMATICITIES, strict=True)
    )
    return {} if same and abs(gamma - _SRGB_GAMMA) <= 100 else colours


def check_no_raw(picture: Image.Image, data: bytes) -> None:
    """Raise `UserError` for a camera's raw file: a TIFF file that begins with a preview."""
    tags = getattr(picture, "tag_v2", {})
    if data[8:10] == b"CR" or 50706 in tags or tags.get(254, 0) == 1:
        raise UserError("a camera's raw file: develop it to JPEG, PNG or TIFF first")
