"""Which image files are read and written, and what a file is that is called something else."""

import contextlib
import functools
import io
import pathlib
import struct

from PIL import Image

from identitydp_jax.checks import UserError

MAX_MEGAPIXELS = 200  # a run takes about 10 bytes of memory a pixel
# What files are called, and the name of their format in Pillow.
SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG",
    ".webp": "WEBP", ".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF", ".avif": "AVIF",
    ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".gif": "GIF", ".jxl": "JXL",
}  # fmt: skip
_FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
_READABLE = "JPEG, PNG, WebP, HEIC, AVIF, TIFF, BMP, GIF or JPEG XL"

# Where a file says what it is, how, and what that is called.
_OTHERS = (
    (0, b"%PDF", "a PDF document"), (0, b"%!PS", "a PostScript document"),
    (4, b"ftypcrx", "a camera's raw file (CR3)"), (0, b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (0, b"IIU\0", "a camera's raw file (RW2)"), (0, b"IIRO", "a camera's raw file (ORF)"),
    (0, b"IIRS", "a camera's raw file (ORF)"), (4, b"ftyp", "a film (MP4 or MOV)"),
    (0, b"\x1a\x45\xdf\xa3", "a film (Matroska)"), (8, b"AVI ", "a film (AVI)"),
    (0, b"8BPS", "a Photoshop document"), (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"), (0, b"PK\3\4", "a zip archive"),
    (0, b"Rar!", "a RAR archive"), (0, b"7z\xbc\xaf", "a 7z archive"), 
    (0, b"\x1f\x8b", "gzip data"), (0, b"\0\0\1\0", "an icon"), (0, b"v/1\1", "an OpenEXR image"),
    (0, b"\xff\xd8", "a JPEG cut short"), (0, b"II\xbc", "a JPEG XR image"),
    (0, b"version https://git-lfs", "a pointer of Git LFS"),
)  # fmt: skip
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")


def open_image(data: bytes) -> Image.Image:
    """Open an image file without decoding it, with our bound on its size instead of Pillow's.

    Raises:
      UserError: it is no such file, or larger than `MAX_MEGAPIXELS`.
    """
    register()
    if data.startswith(_JXL):
        if "JXL" not in Image.OPEN:
            raise UserError("a JPEG XL image: install the package pillow-jxl-plugin to read it")
        _check_size(*_jxl_size(data))  # that package decodes on opening
    damaged = ""
    for name in _FORMATS:
        factory, accept = Image.OPEN.get(name, (None, lambda _: False))
        # Pillow's own `open` has a bound of its own, which all threads share.
        if accept(data[:16]) is True:
            try:
                picture = factory(io.BytesIO(data), None)
            except (SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error):
                damaged = damaged or name  # or a neighbour's that begins alike
                continue
            _check_size(picture.width, picture.height)
            return picture
    if damaged:
        raise UserError(f"the image is damaged or truncated ({damaged})")
    raise UserError(f"not a {_READABLE} image but {describe(data)}")


def can_write(name: str) -> bool:
    """Return whether images of a format, by its name in Pillow, can be written here."""
    register()
    if name == "HEIF":
        import pillow_heif

        return bool(pillow_heif.libheif_info()["HEIF"])
    return name in Image.SAVE


def add_suffix(name: str, kind: str) -> str:
    """Return the name of a result that is of another format than its input."""
    suffix = {"PNG": ".png", "JPEG": ".jpg"}[kind]
    return name if name.endswith(suffix) else name + suffix


def misnamed(name: str, kind: str) -> list[str]:
    """Return one line if a file's name says another format than it has, else none."""
    suffix = pathlib.PurePath(name).suffix.lower()
    if SUFFIXES.get(suffix, kind) == kind:
        return []
    return [f"called {suffix}, and is {kind}"]


def describe(data: bytes) -> str:
    """Return what a file is that is no image, in words."""
    for start, mark, name in _OTHERS:
        if data.startswith(mark, start):
            return name
    head = data[:512]
    if b"<svg" in head:
        return "an SVG drawing"
    if not head.strip(b"\0"):
        return "nothing but zeros"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4 or b"\0" in head:
            return "an unknown kind of file"
    return "a text file"


@functools.cache
def register() -> None:
    """Make the readers and writers of other packages known to Pillow, once."""
    import pillow_heif

    Image.init()
    pillow_heif.register_heif_opener()
    with contextlib.suppress(ImportError):  # it exists for some machines only
        import pillow_jxl  # noqa: F401 - registers itself


def _check_size(width: int, height: int) -> None:
    megapixels = width * height / 1e6
    if megapixels > MAX_MEGAPIXELS:
        raise UserError(
            f"{megapixels:.0f} megapixels, more than {MAX_MEGAPIXELS}: reduce or split the photo"
        )


def _jxl_codestream(data: bytes) -> int:
    """Return where the codestream begins: at once, or in the first of its boxes."""
    place = 0
    while data[place : place + 2] != _JXL[0] and place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        head = 16 if length == 1 else 8  # 1: the length follows, in 8 bytes
        if name in (b"jxlc", b"jxlp"):
            return place + head + 4 * (name == b"jxlp")
        length = int.from_bytes(data[place + 8 : place + 16], "big") if length == 1 else length
        place += max(length, head)
    return place


def _jxl_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a JPEG XL file, from the head of its codestream (ISO 18181-1)."""
    start = _jxl_codestream(data)
    bits, place = int.from_bytes(data[start + 2 : start + 16], "little"), 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return bits >> (place - count) & ((1 << count) - 1)

    def side(small: int) -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    small = take(1)
    height = side(small)
    ratio = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[take(3)]
    return (height * ratio[0] // ratio[1] if ratio[0] else side(small)), height
