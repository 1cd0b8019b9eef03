"""Image files: what of a JPEG, PNG or WebP file is read, and how it is written again."""

import dataclasses
import io
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from identitydp_jax.checks import UserError

MAX_MEGAPIXELS = 200  # a run takes about 10 bytes of memory a pixel
_GRAY = ("1", "L", "LA", "I", "I;16")
_COLOUR = ("P", "RGB", "RGBA", "CMYK")


@dataclasses.dataclass(frozen=True)
class DecodedImage:
    """A decoded image, upright, with what is needed to write it in the same format.

    Attributes:
      pixels: uint8 (H, W, 3) RGB.
      alpha: uint8 (H, W), or None.
      gray: whether the file has no colour.
      format: ``JPEG``, ``PNG`` or ``WEBP``.
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

    The EXIF orientation is applied. Palettes become colours, 16 bits a channel become 8, CMYK
    becomes RGB (through the file's profile if it has one). Of a JPEG with several pictures (a
    phone's depth map or preview) the first is taken.

    Args:
      data: a whole JPEG, PNG or WebP file.

    Raises:
      UserError: the data is none of these, truncated, animated or larger than `MAX_MEGAPIXELS`.
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
        except Exception as error:
            # Pillow's decoders raise OSError, SyntaxError, struct.error and others.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"the image is damaged or truncated ({reason})") from error


def encode(image: DecodedImage, pixels: np.ndarray) -> bytes:
    """Return a file of the same format as `image` that shows `pixels`, without any metadata.

    Only the colour profile stays.

    Args:
      image: from `decode`.
      pixels: uint8 (H, W, 3) RGB or (H, W, 4) RGBA, of any size.
    """
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    if image.gray:
        picture = picture.convert("L")
    if pixels.shape[2] == 4:
        picture.putalpha(Image.fromarray(pixels[..., 3]))
    file = io.BytesIO()
    picture.save(file, format=image.format, **image.options)
    return file.getvalue()


def _decode(data: bytes) -> DecodedImage:
    with _open(data) as picture:
        kind = "JPEG" if picture.format == "MPO" else picture.format
        notes = _refuse_or_note(picture, data)
        options = _options(picture, kind, data)
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        pixels, alpha = _channels(picture)
        gray = picture.mode in _GRAY
    return DecodedImage(pixels, alpha, gray, kind, options, tuple(notes))


def _open(data: bytes):
    """Open without decoding, with our bound on the size instead of Pillow's lower one."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
    except Image.UnidentifiedImageError:
        raise UserError("not a JPEG, PNG or WebP image") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _refuse_or_note(picture, data: bytes) -> list[str]:
    """Raise for what is not handled; return what will be lost."""
    megapixels = picture.width * picture.height / 1e6
    if megapixels > MAX_MEGAPIXELS:
        raise UserError(
            f"{megapixels:.0f} megapixels, more than {MAX_MEGAPIXELS}: reduce or split the photo"
        )
    if picture.mode not in _GRAY + _COLOUR:
        raise UserError(f"colour mode {picture.mode}: convert it to RGB")
    notes = []
    if getattr(picture, "n_frames", 1) > 1:
        if picture.format != "MPO":
            raise UserError("an animation: extract its frames as single images")
        notes.append("only the first picture of the file")
    if picture.mode == "CMYK":
        notes.append("CMYK converted to RGB")
    if picture.mode.startswith("I") or (picture.format == "PNG" and data[24] == 16):
        notes.append("16 bits a channel reduced to 8")
    return notes


def _options(picture, kind: str, data: bytes) -> dict:
    """Return how to save in the same format and, as far as the file tells, at the same quality."""
    options = {}
    if picture.mode != "CMYK" and picture.info.get("icc_profile"):
        options["icc_profile"] = picture.info["icc_profile"]
    if kind == "JPEG":
        options |= _jpeg_options(picture)
    elif kind == "WEBP":
        lossless = _is_lossless_webp(data)
        options |= {"lossless": lossless, "quality": 80 if lossless else 92}
    return options


def _jpeg_options(picture) -> dict:
    """Return the file's own quantisation tables and chroma subsampling, where they can be kept."""
    options = {"progressive": bool(picture.info.get("progressive"))}
    tables = picture.quantization
    if picture.mode == "CMYK" or not tables or max(map(max, tables.values())) > 255:
        return options | {"quality": 95, "subsampling": 0}
    subsampling = JpegImagePlugin.get_sampling(picture)
    options["qtables"] = [tables[number] for number in sorted(tables)]
    return options | ({"subsampling": subsampling} if subsampling >= 0 else {})


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


def _channels(picture):
    """Return uint8 RGB (H, W, 3), and uint8 alpha (H, W) or None, of a decoded picture."""
    if picture.mode.startswith("I"):
        # 16 bits in a signed 32-bit or unsigned 16-bit mode; Pillow's own conversion clips
        gray = np.asarray(picture)
        gray = (np.clip(gray, 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2), None
    if picture.mode == "CMYK":
        return np.array(_from_cmyk(picture)), None
    if picture.has_transparency_data:
        whole = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        return np.array(whole.convert("RGB")), np.array(whole.getchannel("A"))
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB")), None


def _from_cmyk(picture):
    """Return the picture in sRGB, through its profile where that can be used."""
    profile = picture.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(picture, source, srgb, outputMode="RGB")
        except (OSError, ImageCms.PyCMSError):
            pass  # an unusable profile tells no more than none
    return picture.convert("RGB")
