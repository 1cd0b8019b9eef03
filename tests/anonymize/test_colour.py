import numpy as np
import pytest
from PIL import Image, ImageCms

from identitydp_jax.anonymize import colour
from identitydp_jax.checks import UserError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = colour.from_code_points(12, 13)
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


def _shown(profile):
    return np.asarray(colour.to_srgb(Image.fromarray(PIXELS), profile)).astype(int)


def _with_tag(profile, name, tag):
    """The profile with a tag more, which the others make room for."""
    count = int.from_bytes(profile[128:132], "big")
    table = bytearray(profile[132 : 132 + 12 * count])
    for place in range(4, len(table), 12):
        start = int.from_bytes(table[place : place + 4], "big") + 12
        table[place : place + 4] = start.to_bytes(4, "big")
    data = profile[132 + 12 * count :]
    table += name + (144 + 12 * count + len(data)).to_bytes(4, "big") + len(tag).to_bytes(4, "big")
    body = (count + 1).to_bytes(4, "big") + bytes(table) + data + tag
    return (128 + len(body)).to_bytes(4, "big") + profile[4:128] + body


def _sampled(profile, curve):
    """The profile with a sampled curve in place of each of its own."""
    tag = b"curv\0\0\0\0" + (1024).to_bytes(4, "big") + curve.astype(">u2").tobytes()
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        profile = _with_tag(profile.replace(name, name[:1] + b"XXX"), name, tag)
    return profile


@pytest.mark.parametrize("profile", [SRGB, P3, colour.from_code_points(9, 1)])
def test_the_same_colours_and_nothing_else(profile):
    hidden = _with_tag(profile, b"priv", b"SECRET" * 1000) + b"SECRET" * 1000
    rewritten = colour.rewrite(hidden)
    assert rewritten == colour.rewrite(profile) and len(rewritten) < 600
    assert np.abs(_shown(rewritten) - _shown(profile)).max() <= 1


def test_wide_colours_are_no_srgb():
    assert np.abs(_shown(SRGB) - PIXELS).max() <= 1
    assert np.abs(_shown(P3) - PIXELS).max() > 20
    white = Image.new("RGB", (1, 1), "white")
    assert colour.to_srgb(white, P3).getpixel((0, 0)) == (255, 255, 255)
    red = Image.new("RGB", (1, 1), (234, 51, 35))  # sRGB's red in Display P3
    assert np.abs(np.array(colour.to_srgb(red, P3).getpixel((0, 0))) - (255, 0, 0)).max() <= 1


def test_sampled_curves_become_the_known_ones_that_they_are():
    x = np.linspace(0, 1, 1024)
    srgb = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    for curve in (srgb, x**2.2, x**1.8, x):
        sampled = _sampled(P3, np.rint(curve * 65535))
        rewritten = colour.rewrite(sampled)
        assert len(rewritten) < 600
        assert np.abs(_shown(rewritten) - _shown(sampled)).max() <= 1


@pytest.mark.parametrize(
    "profile",
    [
        b"",
        b"no profile",
        SRGB[:200],
        SRGB[:-1],
        b"\xff" * 4000,
        _with_tag(SRGB, b"A2B0", b"mAB " + bytes(400)),
        _sampled(P3, np.random.default_rng(0).integers(0, 65536, 1024)),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    ],
)
def test_what_does_not_amount_to_primaries_and_curves_is_not_kept(profile):
    assert colour.rewrite(profile) is None


def test_bits_flipped_in_a_profile_never_raise():
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(SRGB)
        for place in rng.integers(0, len(broken), 5):
            broken[place] = rng.integers(256)
        colour.rewrite(bytes(broken))


def test_code_points():
    assert colour.from_code_points(1, 13) is None is colour.from_code_points(2, 2)
    assert np.abs(_shown(colour.from_code_points(1, 8)) - PIXELS).max() > 20
    for points in ((9, 16), (9, 18), (12, 99), (3, 13)):
        with pytest.raises(UserError, match=r"export it|convert the photo"):
            colour.from_code_points(*points)
