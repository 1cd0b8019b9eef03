import concurrent.futures
import io
import struct
import threading
import zlib

import numpy as np
import pytest
from fakes import MAGENTA, picture
from PIL import Image, ImageCms, PngImagePlugin

from identitydp_jax.anonymize import colour, formats, images
from identitydp_jax.checks import UserError

formats.register()
PIXELS = picture((20, 30, 60, 70))
_Y, _X = np.mgrid[:120, :160]
SMOOTH = np.stack([_X, 2 * _Y, (_X + _Y) // 2], -1).astype(np.uint8)
FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "BMP", "GIF")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _file(image, format, **options):
    file = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(file, format=format, **options)
    return file.getvalue()


def _open(data):
    return Image.open(io.BytesIO(data))


def _same_colours(one, other):
    shown = [np.asarray(colour.to_srgb(Image.fromarray(PIXELS), each)) for each in (one, other)]
    return np.abs(shown[0].astype(int) - shown[1]).max() <= 1


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
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF"])
def test_orientation_is_applied_and_dropped(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _file(PIXELS, format, exif=exif.tobytes() if format == "HEIF" else exif)
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
    assert 0x0112 not in written.getexif() and written.size == expected.shape[::-1]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF"])
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
    if format == "TIFF":
        options = {"tiffinfo": {270: "SECRET", 315: "SECRET"}, "icc_profile": SRGB}
    data = _file(PIXELS, format, **options)
    assert b"SECRET" in data
    decoded = images.decode(data)
    result = images.encode(decoded, decoded.with_alpha())
    written = _open(result)
    assert b"SECRET" not in result and (format == "TIFF" or not written.getexif())
    assert _same_colours(written.info["icc_profile"], SRGB)
    values = {value for value in written.info.values() if isinstance(value, bytes)}
    assert values <= {written.info["icc_profile"]}
    if format in ("HEIF", "TIFF"):
        return
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
        (b"just text\n" * 100, "not a JPEG, PNG.* but a text file"),
        (b"%PDF-1.7\n" + bytes(99), "not a .* but a PDF document"),
        (b"\0\0\0\x20ftypisom" + bytes(99), "not a .* but a film .*"),
        (b"PK\3\4" + bytes(99), "not a .* but a zip archive"),
        (bytes(1000), "not a .* but nothing but zeros"),
        (bytes(range(256)), "not a .* but an unknown kind of file"),
        (_truncated("JPEG"), "damaged or truncated"),
        (_truncated("PNG"), "damaged or truncated"),
        (_truncated("WEBP"), "damaged or truncated"),
        (_truncated("HEIF"), "damaged or truncated"),
        (_truncated("AVIF"), "damaged or truncated"),
        (_truncated("TIFF"), "damaged or truncated"),
        (_truncated("BMP"), "damaged or truncated"),
        (_truncated("GIF"), "damaged or truncated"),
        (_file(PIXELS, "JPEG")[:20], "damaged or truncated"),
        (_animated("PNG"), "animation"),
        (_animated("WEBP"), "animation"),
        (_animated("GIF"), "animation"),
        (_animated("AVIF"), "animation"),
        (_animated("TIFF"), "several pages"),
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


def test_the_bound_of_other_users_of_pillow_is_not_ours(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # far below the picture
    for format in ("PNG", "JPEG", "AVIF", "HEIF", "BMP"):
        assert images.decode(_file(PIXELS, format)).pixels.shape == PIXELS.shape
    assert Image.MAX_IMAGE_PIXELS == 10


def test_threads_that_decode_leave_the_bound_of_others_alone():
    seen, before, stop = set(), Image.MAX_IMAGE_PIXELS, threading.Event()

    def watch():
        while not stop.is_set():
            seen.add(Image.MAX_IMAGE_PIXELS)

    watching = threading.Thread(target=watch)
    watching.start()
    data = _file(PIXELS, "PNG")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(images.decode, [data] * 60))
    stop.set()
    watching.join()
    assert seen == {before}


@pytest.mark.parametrize("format", FORMATS)
def test_one_pixel(format):
    decoded, written = _round_trip(_file(np.full((1, 1, 3), 77, np.uint8), format))
    assert decoded.pixels.shape == (1, 1, 3) and written.size == (1, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_read_and_written_again(format, mode):
    source = Image.fromarray(SMOOTH).convert(mode)
    if "A" in mode:
        source.putalpha(255 if format in ("GIF", "BMP", "JPEG") else 100)
    stored = source
    if "A" in mode and format in ("JPEG", "BMP"):
        stored = source.convert("RGB")
    elif mode == "LA" and format in ("GIF", "HEIF", "AVIF"):
        stored = source.convert("RGBA")
    decoded, written = _round_trip(_file(stored, format))
    assert decoded.format == written.format == format
    shown = np.asarray(written.convert("RGB")).astype(int)
    assert np.abs(shown - np.asarray(source.convert("RGB"))).mean() < 6
    if stored.mode in ("RGBA", "LA") and format not in ("GIF", "BMP"):
        assert (np.asarray(written.convert("RGBA"))[..., 3] == 100).all()


def test_jpeg_xl_where_its_package_is_installed():
    pytest.importorskip("pillow_jxl")
    decoded, written = _round_trip(_file(SMOOTH, "JXL"))
    assert decoded.format == written.format == "JXL"
    assert np.abs(np.asarray(written).astype(int) - SMOOTH).mean() < 4
    for width, height in ((300, 200), (301, 77), (1024, 1024), (40, 8)):
        data = _file(np.zeros((height, width, 3), np.uint8), "JXL")
        assert formats._jxl_size(data) == (width, height)
        boxed = _file(np.zeros((height, width, 3), np.uint8), "JXL", use_container=True,
                      exif=b"II*\0" + bytes(8) + b"\xff\x0a" * 20)  # fmt: skip
        assert boxed[4:8] == b"JXL " and formats._jxl_size(boxed) == (width, height)


def test_jpeg_xl_without_its_package_is_said(monkeypatch):
    monkeypatch.delitem(Image.OPEN, "JXL", raising=False)
    with pytest.raises(UserError, match="install the package pillow-jxl-plugin"):
        images.decode(b"\xff\x0a\x07\0\x2d" + bytes(50))


def test_texts_of_any_size_and_profiles_of_any_size_are_read():
    text = PngImagePlugin.PngInfo()
    for name in ("workflow", "XML:com.adobe.xmp"):
        text.add_itxt(name, "SECRET" * 400_000, zip=True)
    text.add_text("a", "SECRET" * 400_000, zip=True)
    padded = SRGB + bytes(3_000_000)
    decoded, written = _round_trip(_file(PIXELS, "PNG", pnginfo=text, icc_profile=padded))
    np.testing.assert_array_equal(np.asarray(written), PIXELS)
    assert _same_colours(written.info["icc_profile"], SRGB) and not decoded.notes


@pytest.mark.parametrize("compressed", [False, True])
def test_an_orientation_in_a_small_text_is_applied(compressed):
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=compressed)
    assert images.decode(_file(PIXELS, "PNG", pnginfo=text)).pixels.shape == (160, 120, 3)


def _exif(*tags):
    """The EXIF block of (number, type, count, four bytes or more) in little-endian order."""
    head, rest = struct.pack("<H", len(tags)), b""
    start = 8 + 2 + 12 * len(tags) + 4
    for number, kind, count, value in tags:
        if len(value) > 4:
            rest, value = rest + value, struct.pack("<I", start + len(rest))
        head += struct.pack("<HHI", number, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0II*\0\x08\0\0\0" + head + bytes(4) + rest


ORIENTED = (0x112, 3, 1, struct.pack("<H", 6))


@pytest.mark.parametrize(
    "tags",
    [
        [ORIENTED, (0x11A, 2, 4, b"72/1")],
        [ORIENTED, (0x11A, 5, 1, bytes(8)), (0x128, 2, 2, b"x\0")],
        [ORIENTED, (0x8769, 2, 4, b"abcd"), (0x8825, 4, 1, b"\xff\xff\xff\xff")],
        [(0x112, 4, 1, struct.pack("<I", 6)), (0x10F, 12, 1, b"\xff" * 8)],
        [(0x112, 3, 2, struct.pack("<HH", 6, 6)), (0x927C, 99, 1, b"")],
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_odd_exif_turns_the_picture_and_is_no_damage(tags, format):
    data = _file(PIXELS, format, exif=_exif(*tags))
    assert images.decode(data).pixels.shape == (160, 120, 3)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b""])
def test_senseless_exif_is_passed_over(exif):
    head, rest = (data := _file(PIXELS, "JPEG"))[:2], data[2:]
    block = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    assert images.decode(head + block + rest).pixels.shape == PIXELS.shape


def _chunk(name, content):
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _png16(values, kind, transparent):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    chunks = (b"IHDR", head), (b"tRNS", transparent), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in chunks)


@pytest.mark.parametrize("kind", ["gray", "colour"])
def test_a_transparent_colour_of_sixteen_bits_is_that_colour_alone(kind):
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    values[3, 4] = values[5, 6] = (0x1234, 0x5678, 0x9ABC)
    values[5, 6, 0] += 1  # the same in 8 bits
    if kind == "gray":
        values = np.repeat(values[..., :1], 3, axis=2)
        data = _png16(values[..., 0], 0, struct.pack(">H", values[3, 4, 0]))
        expected = values[..., 0] != values[3, 4, 0]
    else:
        data = _png16(values, 2, struct.pack(">HHH", *values[3, 4]))
        expected = (values != values[3, 4]).any(-1)
    decoded, written = _round_trip(data)
    assert not expected.all() and decoded.gray == (kind == "gray")
    np.testing.assert_array_equal(decoded.alpha, np.where(expected, 255, 0))
    np.testing.assert_array_equal(decoded.pixels, values >> 8)
    np.testing.assert_array_equal(np.asarray(written.convert("RGBA"))[..., 3], decoded.alpha)


GAMMA = (b"gAMA", struct.pack(">I", 100000))
PRIMARIES = (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
STANDARD = (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([GAMMA], [GAMMA]),
        ([GAMMA, PRIMARIES], [GAMMA, PRIMARIES]),
        ([GAMMA, PRIMARIES, (b"cICP", b"\x0c\x0d\0\1")], [(b"cICP", b"\x0c\x0d\0\1")]),
        ([(b"gAMA", struct.pack(">I", 45455)), STANDARD], []),  # which is sRGB
        ([(b"sRGB", b"\0"), GAMMA], []),
    ],
)
def test_which_colours_a_png_means_is_kept(given, kept):
    data = _file(PIXELS, "PNG")
    data = data[:33] + b"".join(_chunk(*each) for each in given) + data[33:]
    decoded = images.decode(data)
    result = images.encode(decoded, decoded.pixels)
    for name in (b"gAMA", b"cHRM", b"cICP", b"sRGB"):
        expected = [_chunk(*each) for each in kept if each[0] == name]
        assert result.count(name) == len(expected) and all(each in result for each in expected)


def test_code_points_of_avif_become_a_profile():
    data = _file(PIXELS, "AVIF")
    place = data.index(b"colrnclx") + 8
    data = data[:place] + struct.pack(">HH", 12, 13) + data[place + 4 :]
    _, written = _round_trip(data)
    assert _same_colours(written.info["icc_profile"], colour.from_code_points(12, 13))
    hdr = data[:place] + struct.pack(">HH", 9, 16) + data[place + 4 :]
    with pytest.raises(UserError, match="high dynamic range"):
        images.decode(hdr)


def test_code_points_of_heic_stay():
    points = {"color_primaries": 12, "transfer_characteristics": 13}
    more = {"matrix_coefficients": 6, "full_range_flag": 1}
    _, written = _round_trip(_file(PIXELS, "HEIF", **points, **more))
    assert {name: written.info["nclx_profile"][name] for name in points} == points


@pytest.mark.parametrize("tables", [1, 2, 3])
def test_jpeg_tables_belong_to_components(tables):
    picture = Image.fromarray(PIXELS)
    given = [[1 + 7 * i + j // 8 for j in range(64)] for i in range(tables)]
    data = _file(picture, "JPEG", qtables=given, subsampling=0)
    _, written = _round_trip(data)
    before = _open(data)
    for opened in (before, written):
        opened.used = [opened.quantization[component[3]] for component in opened.layer]
    assert written.used == before.used and len({str(table) for table in before.used}) == tables


def test_jpeg_tables_in_another_order_are_not_swapped():
    given = [[3] * 64, [40] * 64]
    data = bytearray(_file(PIXELS, "JPEG", qtables=given, subsampling=0))
    for number, place in enumerate(_tables(data)):
        data[place] = 1 - number  # the first becomes number 1
    frame = data.index(b"\xff\xc0") + 10
    for component, table in enumerate((1, 0, 0)):
        data[frame + 3 * component + 2] = table
    decoded, written = _round_trip(bytes(data))
    assert [written.quantization[each[3]][0] for each in written.layer] == [3, 40, 40]
    assert np.abs(decoded.pixels.astype(int) - images.decode(_file(PIXELS, "JPEG", qtables=given,
                  subsampling=0)).pixels).max() == 0  # fmt: skip


def _tables(data):
    """Where a JPEG file says the numbers of its quantisation tables."""
    place = 0
    while (place := data.find(b"\xff\xdb", place)) >= 0:
        yield place + 4
        place += 4


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("cut", [1, 2])
def test_a_jpeg_without_its_end_mark_is_read(progressive, cut):
    data = _file(PIXELS, "JPEG", quality=92, progressive=progressive)
    decoded = images.decode(data[:-cut])
    np.testing.assert_array_equal(decoded.pixels, images.decode(data).pixels)
    for torn in (len(data) // 2, len(data) - 300):
        with pytest.raises(UserError, match="damaged or truncated"):
            images.decode(data[:torn])


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [("a.jpg", "HEIF", ["called .jpg, and is HEIF"]), ("a.JPEG", "JPEG", []), ("a.x", "PNG", [])],
)
def test_a_file_called_wrong_is_told_what_it_is(name, kind, said):
    assert formats.misnamed(name, kind) == said


def test_raw_files_are_not_taken_for_their_previews():
    preview = _file(PIXELS, "TIFF", tiffinfo={254: 1})
    for data in (preview, _file(PIXELS, "TIFF", tiffinfo={50706: b"\1\4\0\0"})):
        with pytest.raises(UserError, match="raw file"):
            images.decode(data)


@pytest.mark.parametrize(("kind", "alpha"), [("PNG", False), ("JPEG", False), ("JPEG", True)])
def test_what_cannot_be_written_becomes_another_format(kind, alpha):
    pixels = np.dstack([SMOOTH, np.full(SMOOTH.shape[:2], 9, np.uint8)]) if alpha else SMOOTH
    image = images.convert(images.decode(_file(pixels, "HEIF")), kind)
    written = _open(images.encode(image, image.with_alpha()))
    assert written.format == image.format == ("PNG" if alpha else kind)
    assert image.notes == (f"written as {image.format}, since HEIF cannot be written here",)
    assert (
        formats.add_suffix("a.heic", image.format)
        == {"PNG": "a.heic.png", "JPEG": "a.heic.jpg"}[image.format]
    )
