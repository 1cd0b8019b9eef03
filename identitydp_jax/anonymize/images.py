"""Image files: what of a file is read, and how it is written again."""

import dataclasses
import io
import warnings

import cv2
import numpy as np
from PIL import Image, ImageChops, JpegImagePlugin, PngImagePlugin

from identitydp_jax.anonymize import colour, containers, formats
from identitydp_jax.checks import UserError

_GRAY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "CMYK")
_LOSSLESS_TIFF = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate")
_RGBA_ALONE = ("HEIF", "AVIF", "JXL", "GIF", "BMP")  # which know no grey with alpha
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class DecodedImage:
    """A decoded image, upright, with what is needed to write it in the same format.

    Attributes:
      pixels: uint8 (H, W, 3) RGB.
      alpha: uint8 (H, W), or None.
      gray: whether the file has no colour.
      format: its name in Pillow, one of `formats.SUFFIXES`.
      options: of Pillow's `save`: quantisation tables, lossless or not, colour profile.
      notes: what was lost or changed in reading, in words.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    gray: bool
    format: str
    options: dict
    notes: tuple[str, ...]

    def with_alpha(self) -> np.ndarray:
        """Return uint8 (H, W, 3), or (H, W, 4) where there is alpha."""
        return self.pixels if self.alpha is None else np.dstack([self.pixels, self.alpha])


def decode(data: bytes) -> DecodedImage:
    """Decode the bytes of an image file.

    The EXIF orientation is applied. Palettes become colours, 16 bits a channel become 8, CMYK and
    what has an unusual profile become sRGB. Of a JPEG or HEIC file with several pictures (a phone's
    depth map or preview) the first is taken.

    Args:
      data: a whole file of one of the formats.

    Raises:
      UserError: the data is none of these, truncated, animated or larger than
        `formats.MAX_MEGAPIXELS`.
    """
    if not data:
        raise UserError("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, which is dropped anyway
        try:
            return _decode(data)
        except UserError:
            raise
        except MemoryError:
            raise UserError("not enough memory to decode it") from None
        except Image.DecompressionBombError:  # of a few formats; lower than our bound
            raise UserError("too many megapixels: reduce or split the photo") from None
        except Exception as error:
            # Pillow's decoders raise OSError, SyntaxError, struct.error and others.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"the image is damaged or truncated ({reason})") from error


def encode(image: DecodedImage, pixels: np.ndarray) -> bytes:
    """Return a file of the same format as `image` that shows `pixels`, without any metadata.

    Only what the colours are stays: a profile written anew (see `colour`) or its like.

    Args:
      image: from `decode`.
      pixels: uint8 (H, W, 3) RGB or (H, W, 4) RGBA, of any size.
    """
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    if image.gray:
        picture = picture.convert("L")
    if pixels.shape[2] == 4:
        picture.putalpha(Image.fromarray(pixels[..., 3]))
        if picture.mode == "LA" and image.format in _RGBA_ALONE:
            picture = picture.convert("RGBA")
    file = io.BytesIO()
    picture.save(file, format=image.format, **image.options)
    return file.getvalue()


def convert(image: DecodedImage, kind: str) -> DecodedImage:
    """Return an image that is written as PNG or JPEG, for a format that cannot be written here."""
    kind = "PNG" if image.alpha is not None else kind
    options = {name: value for name, value in image.options.items() if name == "icc_profile"}
    if kind == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
    note = f"written as {kind}, since {image.format} cannot be written here"
    return dataclasses.replace(image, format=kind, options=options, notes=(*image.notes, note))


def _decode(data: bytes) -> DecodedImage:
    png = containers.split_png(data) if data.startswith(b"\x89PNG") else None
    data = data if png is None else png.data
    with formats.open_image(data) as picture:
        kind = "JPEG" if picture.format == "MPO" else picture.format
        notes = _refuse_or_note(picture, data)
        profile = picture.info.get("icc_profile") if png is None else png.profile
        options = _options(picture, kind, data)
        if png is not None and png.colours:
            options["pnginfo"] = _chunks(png.colours)
        picture = containers.load(picture, data)
        method = _TURNS.get(_orientation(picture))
        picture = _deep_transparency(picture, data)
        picture = picture if method is None else picture.transpose(method)
        gray = picture.mode in _GRAY
        if picture.mode != "CMYK" and "pnginfo" not in options:
            picture = _settle_colours(picture, profile, kind, data, options, notes)
        pixels, alpha = _channels(picture, profile)
    return DecodedImage(pixels, alpha, gray, kind, options, tuple(notes))


def _refuse_or_note(picture, data: bytes) -> list[str]:
    """Raise for what is not handled; return what will be lost."""
    containers.check_no_raw(picture, data)
    if picture.mode not in _GRAY + _COLOUR:
        raise UserError(f"colour mode {picture.mode}: convert it to RGB")
    notes = []
    if getattr(picture, "n_frames", 1) > 1:
        if picture.format == "TIFF":
            raise UserError("several pages: extract them as single images")
        if picture.format not in ("MPO", "HEIF"):
            raise UserError("an animation: extract its frames as single images")
        notes.append("only the first picture of the file")
    if picture.mode == "CMYK":
        notes.append("CMYK converted to RGB")
    if _bits(picture, data) > 8:
        notes.append("16 bits a channel reduced to 8")
    if picture.format == "GIF":
        notes.append("256 colours chosen anew")
    return notes


def _bits(picture, data: bytes) -> int:
    """Return the bits a channel, as far as the file tells."""
    if picture.mode.startswith("I"):
        return 16
    if picture.format == "PNG":
        return data[24]
    if picture.format == "TIFF":
        return max(picture.tag_v2.get(258, (8,)))
    return picture.info.get("bit_depth", 8)


def _orientation(picture) -> int:
    """Return EXIF's orientation; 1 where EXIF makes no sense, as viewers take it then."""
    try:
        value = picture.getexif().get(0x0112, 1)
        return int(value[0] if isinstance(value, tuple) else value)
    except Exception:  # its parser raises whatever its parts raise
        return 1


def _settle_colours(picture, profile, kind: str, data: bytes, options: dict, notes: list):
    """Set the profile to write among `options`, or return the picture converted to sRGB."""
    if profile is None:
        points = containers.code_points(data) if kind == "AVIF" else None
        written = points and colour.from_code_points(*points)
    else:
        written = colour.rewrite(profile)
    if profile is not None and (written is None or kind == "JXL"):  # whose writer takes none
        opaque = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
        converted, written = colour.to_srgb(opaque, profile), None
        if converted is None:
            notes.append("an unusable colour profile dropped")
        elif _differ(converted, opaque):
            notes.append("colours converted to sRGB")
        if converted is not None and picture.has_transparency_data:
            converted.putalpha(picture.convert("RGBA").getchannel("A"))
        picture = converted or picture
    if written is not None:
        options["icc_profile"] = written
    return picture


def _differ(one, other) -> bool:
    """Return whether two pictures differ by more than rounding."""
    difference = ImageChops.difference(one, other.convert("RGB"))
    return max(most for _, most in difference.getextrema()) > 1


def _options(picture, kind: str, data: bytes) -> dict:
    """Return how to save in the same format and, as far as the file tells, at the same quality."""
    if kind == "JPEG":
        return _jpeg_options(picture)
    if kind == "WEBP":
        lossless = _is_lossless_webp(data)
        return {"lossless": lossless, "quality": 80 if lossless else 92}
    if kind == "HEIF":
        return _heif_options(picture)
    if kind == "TIFF":
        found = picture.info.get("compression")
        return {"compression": found if found in _LOSSLESS_TIFF else "tiff_adobe_deflate"}
    return {"AVIF": {"quality": 90}, "JXL": {"quality": 95}}.get(kind, {})


def _heif_options(picture) -> dict:
    """Return chroma subsampling and the code points of the colours (ITU-T H.273)."""
    options = {"quality": 90}
    if picture.info.get("chroma") in (420, 422, 444):
        options["chroma"] = picture.info["chroma"]
    points = picture.info.get("nclx_profile")
    if points and "icc_profile" not in picture.info and points["color_primaries"] != 2:
        names = ("color_primaries", "transfer_characteristics")
        options |= {name: points[name] for name in names}
        options |= {"matrix_coefficients": 6, "full_range_flag": 1}  # of the file's own coding
    return options


def _jpeg_options(picture) -> dict:
    """Return the file's own quantisation tables and chroma subsampling, where they can be kept."""
    options = {"progressive": bool(picture.info.get("progressive"))}
    tables = picture.quantization
    if picture.mode == "CMYK" or not tables or max(map(max, tables.values())) > 255:
        return options | {"quality": 95, "subsampling": 0}
    subsampling = JpegImagePlugin.get_sampling(picture)
    options["qtables"] = _tables_by_component(picture, tables)
    return options | ({"subsampling": subsampling} if subsampling >= 0 else {})


def _tables_by_component(picture, tables: dict) -> list:
    """Return the tables so that each component gets its own: Pillow gives the last to the rest."""
    numbers = [component[3] for component in picture.layer]
    usual = sorted(tables)
    if numbers == [usual[min(i, len(usual) - 1)] for i in range(len(numbers))]:
        return [tables[number] for number in usual]
    own = [tables[number] for number in numbers]
    return own[:2] if own[1:2] == own[2:3] else own


def _chunks(colours: dict[bytes, bytes]) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for name, content in colours.items():
        info.add(name, content)
    return info


def _is_lossless_webp(data: bytes) -> bool:
    """Return whether the picture's chunk is VP8L; chunks are a name, a length and padded data."""
    position = 12
    while position + 8 <= len(data):
        name = data[position : position + 4]
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8L"
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + length + length % 2
    return False


def _deep_transparency(picture, data: bytes):
    """Return a picture whose transparent colour, of 16 bits a channel, has become alpha."""
    one = picture.info.get("transparency")
    if picture.format != "PNG" or data[24] != 16 or one is None:
        return picture
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        alpha, shown = values != one, Image.fromarray((values >> 8).astype(np.uint8))
    else:  # Pillow keeps the upper 8 bits, in which other colours are the same
        alpha = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., 3]
        shown = picture.copy()
    shown.info = {name: value for name, value in picture.info.items() if name != "transparency"}
    shown.putalpha(Image.fromarray(np.where(alpha, 255, 0).astype(np.uint8)))
    return shown


def _channels(picture, profile: bytes | None):
    """Return uint8 RGB (H, W, 3), and uint8 alpha (H, W) or None, of a decoded picture."""
    if picture.mode.startswith("I"):
        # 16 bits in a signed 32-bit or unsigned 16-bit mode; Pillow's own conversion clips
        gray = np.asarray(picture)
        gray = (np.clip(gray, 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2), None
    if picture.mode == "CMYK":
        converted = colour.to_srgb(picture, profile) if profile else None
        return np.array(converted or picture.convert("RGB")), None
    if picture.has_transparency_data:
        whole = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        return np.array(whole.convert("RGB")), np.array(whole.getchannel("A"))
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB")), None
