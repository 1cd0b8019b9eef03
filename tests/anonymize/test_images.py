import io
import zlib

import numpy as np
import pytest
from fakes import MAGENTA, picture
from PIL import Image, ImageCms, PngImagePlugin

from identitydp_jax.anonymize import images
from identitydp_jax.checks import UserError

PIXELS = picture((20, 30, 60, 70))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _file(image, format, **options):
    file = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(file, format=format, **options)
    return file.getvalue()


def _open(data):
    return Image.open(io.BytesIO(data))


def _round_trip(data):
    decoded = images.decode(data)
    return decoded, _open(images.encode(decoded, decoded.with_alpha()))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "P"])
def test_png_modes_keep_their_pixels(mode):
    source = Image.fromarray(PIXELS).convert(mode)
    if "A" in mode:
        source.putalpha(Image.fromarray(np.arange(160, dtype=np.uint8)[None].repeat(120, 0)))
    decoded, written = _round_trip(_file(source, "PNG"))
    expected = {"1": "L", "P": "RGB"}.get(mode, mode)
    assert written.format == "PNG" and written.mode == expected
    np.testing.assert_array_equal(np.asarray(written), np.asarray(source.convert(expected)))
    assert decoded.gray == (mode in ("L", "LA", "1"))


def test_transparent_colours_of_palettes_and_of_rgb_become_alpha():
    palette = Image.fromarray(PIXELS).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    index = palette.getpixel((30, 40))
    for data in (
        _file(palette, "PNG", transparency=index),
        _file(PIXELS, "PNG", transparency=(255, 0, 255)),
    ):
        _, written = _round_trip(data)
        assert written.mode == "RGBA"
        alpha = np.asarray(written)[..., 3]
        assert alpha[40, 30] == 0 and alpha[0, 0] == 255


def test_sixteen_bits_become_eight_without_clipping():
    ramp = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    decoded, written = _round_trip(_file(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(np.asarray(written), ramp >> 8)
    assert decoded.gray and "16 bits" in decoded.notes[0]


def test_sixteen_bits_of_colour_are_noted():
    cv2 = pytest.importorskip("cv2")
    wide = np.zeros((20, 30, 3), np.uint16) + np.array([65535, 256, 0x1234], np.uint16)
    decoded, written = _round_trip(cv2.imencode(".png", wide)[1].tobytes())
    assert tuple(np.asarray(written)[0, 0]) == (0x12, 1, 255)
    assert decoded.notes == ("16 bits a channel reduced to 8",)


@pytest.mark.parametrize("profile", [None, b"no profile"])
def test_cmyk_becomes_rgb(profile):
    cmyk = Image.fromarray(PIXELS).convert("CMYK")
    decoded, written = _round_trip(_file(cmyk, "JPEG", quality=95, icc_profile=profile))
    assert written.mode == "RGB" and written.format == "JPEG"
    assert "icc_profile" not in written.info and "CMYK" in decoded.notes[0]
    assert np.abs(decoded.pixels.astype(int) - PIXELS).mean() < 4


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_gray_and_colour_stay(format):
    _, colour = _round_trip(_file(PIXELS, format))
    assert colour.mode == "RGB"
    if format == "JPEG":
        _, gray = _round_trip(_file(Image.fromarray(PIXELS).convert("L"), format))
        assert gray.mode == "L"


@pytest.mark.parametrize("quality", [30, 75, 97])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_keeps_its_tables_and_subsampling(quality, subsampling):
    from PIL import JpegImagePlugin

    data = _file(PIXELS, "JPEG", quality=quality, subsampling=subsampling, progressive=True)
    _, written = _round_trip(data)
    assert written.quantization == _open(data).quantization
    assert JpegImagePlugin.get_sampling(written) == subsampling
    assert written.info.get("progressive")


def test_webp_keeps_alpha_and_whether_it_is_lossless():
    alpha = np.dstack([PIXELS, np.full((120, 160), 130, np.uint8)])
    for pixels in (PIXELS, alpha):
        _, written = _round_trip(_file(pixels, "WEBP", lossless=True))
        np.testing.assert_array_equal(np.asarray(written), pixels)
    lossy = _file(alpha, "WEBP", lossless=False, quality=60)
    assert not images.decode(lossy).options["lossless"]
    _, written = _round_trip(lossy)
    assert written.mode == "RGBA" and (np.asarray(written)[..., 3] == 130).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied_and_dropped(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _file(PIXELS, format, exif=exif)
    corner = (PIXELS == MAGENTA).all(-1)
    expected = {
        1: corner,
        2: corner[:, ::-1],
        3: corner[::-1, ::-1],
        4: corner[::-1],
        5: corner.T,
        6: np.rot90(corner, -1),
        7: np.rot90(corner, 2).T,
        8: np.rot90(corner, 1),
    }[orientation]
    decoded, written = _round_trip(data)
    found = (decoded.pixels[..., 0] > 200) & (decoded.pixels[..., 1] < 60)
    assert (found != expected).mean() < 0.02
    assert not written.getexif() and written.size == expected.shape[::-1]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_all_metadata_goes_but_the_profile(format):
    exif = Image.Exif()
    exif[0x010F] = "SECRET-EXIF"
    exif[0x8825] = {1: "N", 2: (47.0, 22.0, 1.0)}
    options = {"exif": exif, "icc_profile": SRGB, "xmp": b"<x>SECRET-XMP</x>"}
    if format == "JPEG":
        options |= {"comment": b"SECRET-COMMENT", "dpi": (123, 123)}
    if format == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", "SECRET-TEXT")
        text.add_itxt("XML:com.adobe.xmp", "SECRET-XMP")
        options = {"exif": exif, "icc_profile": SRGB, "pnginfo": text, "dpi": (123, 123)}
    data = _file(PIXELS, format, **options)
    assert b"SECRET" in data
    decoded = images.decode(data)
    result = images.encode(decoded, decoded.with_alpha())
    written = _open(result)
    assert b"SECRET" not in result and not written.getexif()
    assert written.info["icc_profile"] == SRGB
    assert set(written.info) <= {
        "icc_profile",
        "jfif",
        "jfif_version",
        "jfif_unit",
        "jfif_density",
        "loop",
        "background",
        "timestamp",
        "duration",
    }


def test_a_jpeg_with_a_second_picture_keeps_only_the_first():
    second = Image.fromarray(255 - PIXELS)
    data = _file(PIXELS, "MPO", save_all=True, append_images=[second])
    decoded = images.decode(data)
    result = images.encode(decoded, decoded.with_alpha())
    assert decoded.format == _open(result).format == "JPEG" and "first" in decoded.notes[0]
    assert np.abs(np.asarray(_open(result)).astype(int) - PIXELS).mean() < 5
    assert len(result) < 0.7 * len(data)


def _truncated(format):
    data = _file(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8), format)
    return data[: len(data) * 2 // 3]


def _animated(format):
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    return _file(frames[0], format, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "empty"),
        (b"just text\n" * 100, "not a JPEG, PNG or WebP"),
        (_file(PIXELS, "GIF"), "not a JPEG, PNG or WebP"),
        (_file(PIXELS, "TIFF"), "not a JPEG, PNG or WebP"),
        (_truncated("JPEG"), "damaged or truncated"),
        (_truncated("PNG"), "damaged or truncated"),
        (_truncated("WEBP"), "damaged or truncated|not a JPEG"),
        (_file(PIXELS, "JPEG")[:20], "damaged or truncated|not a JPEG"),
        (_animated("PNG"), "animation"),
        (_animated("WEBP"), "animation"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(data, line):
    with pytest.raises(UserError, match=line) as caught:
        images.decode(data)
    assert "\n" not in str(caught.value)


def test_too_many_pixels_are_refused_before_they_are_decoded():
    header = bytearray(_file(np.zeros((1, 1), np.uint8), "PNG"))
    header[16:24] = (20_000).to_bytes(4, "big") + (11_000).to_bytes(4, "big")
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(UserError, match="220 megapixels, more than 200"):
        images.decode(bytes(header))


def test_the_bound_of_other_users_of_pillow_stays():
    before = Image.MAX_IMAGE_PIXELS
    images.decode(_file(PIXELS, "PNG"))
    with pytest.raises(UserError):
        images.decode(b"text")
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_one_pixel(format):
    decoded, written = _round_trip(_file(np.full((1, 1, 3), 77, np.uint8), format))
    assert decoded.pixels.shape == (1, 1, 3) and written.size == (1, 1)
