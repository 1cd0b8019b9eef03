import numpy as np
import pytest
from fakes import MAGENTA, FixedDetector, MarkerDetector, picture

from identitydp_jax.anonymize import batch, photos, transparency
from identitydp_jax.anonymize.methods import Baseline
from identitydp_jax.models import face_region
from identitydp_jax.privacy import keys

FACE, SMALL = (20, 20, 60, 75), (100, 80, 110, 92)


@pytest.fixture(autouse=True)
def _fake(fake_model):
    pass


def _anonymize(photo, detector=None):
    return photos.anonymize_photo(
        Baseline("mask"),
        photo,
        master=keys.audit_master(0),
        detector=detector or MarkerDetector(),
    )


def _ellipse(box):
    return (picture(box) == MAGENTA).all(-1)


def _views(photo):
    return photo[..., :3], transparency.flatten(photo, 255), transparency.flatten(photo, 0)


@pytest.mark.parametrize(
    ("colour", "inside", "outside"),
    [
        (MAGENTA, 255, 0),  # the colours alone are one large face
        ((150, 0, 150), 178, 255),  # magenta over white alone
        ((255, 100, 255), 191, 255),  # magenta over black alone
    ],
)
def test_a_face_that_only_alpha_shows_is_replaced_in_every_view(colour, inside, outside):
    photo = np.zeros((120, 160, 4), np.uint8)
    photo[..., :3], photo[..., 3] = colour, np.where(_ellipse(FACE), inside, outside)
    result, records = _anonymize(photo)
    assert [record.box for record in records] == [FACE]
    assert result.shape == photo.shape and (result[..., 3] == 255).all()
    for view in _views(result):
        assert (view[30:65, 28:52] == 128).all()


def test_alpha_is_constant_where_a_face_is_replaced_and_as_it_was_elsewhere():
    alpha = np.random.default_rng(0).integers(100, 250, (120, 160, 1), np.uint8)
    photo = np.dstack([picture(FACE, SMALL), alpha])
    result, records = _anonymize(photo, FixedDetector([FACE, SMALL]))
    handled = {record.box: record.handled for record in records}
    assert handled == {FACE: "anonymized", SMALL: "pixelated"}
    changed = (result[..., :3] != photo[..., :3]).any(-1)
    assert changed[30:65, 28:52].all() and changed[80:92, 100:110].all()
    assert len(np.unique(result[..., 3][changed])) == 1
    far = np.ones((120, 160), bool)
    far[:95, :85] = far[72:100, 92:120] = False
    assert far.sum() > 9000 and (result[far] == photo[far]).all()


def test_the_feather_of_a_region_shows_nothing_in_alpha():
    noise = np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8)
    frame = np.array([[1.0, 0, -60], [0, 1, -70]])
    from identitydp_jax.anonymize import compositing

    alpha = noise.copy()
    compositing.level_alpha(alpha, [], [frame], 128)
    replaced = np.zeros((300, 300), bool)
    replaced[70:198, 60:188] = face_region.face_region(128)[..., 0] > 0
    assert (alpha[replaced] == noise[replaced].max()).all()
    assert (alpha[~replaced] == noise[~replaced]).all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_alpha_that_shows_nothing_changes_nothing(level):
    photo = picture(FACE, SMALL)
    expected, records = _anonymize(photo)
    alpha = np.full((120, 160, 1), level, np.uint8)
    result, same = _anonymize(np.dstack([photo, alpha]))
    assert same == records
    assert (result == np.dstack([expected, alpha])).all()


def test_soft_edges_around_a_face_that_the_colours_show_are_kept():
    alpha = np.clip(np.arange(160) * 3, 0, 255).astype(np.uint8)[None].repeat(120, 0)
    alpha[:95, :90] = 255
    photo = np.dstack([picture(FACE), alpha])
    result, _ = _anonymize(photo)
    assert (result[..., 3] == alpha).all()
    assert (result[..., :3] == _anonymize(picture(FACE))[0]).all()


@pytest.mark.parametrize("level", [None, 90])
def test_a_blurred_photo_shows_nothing_in_alpha(level):
    class Nothing:
        def detect(self, photo):
            return MarkerDetector().detect(picture())

    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (120, 160, 4), np.uint8)
    if level is not None:
        photo[..., 3] = level
    run = batch.Batch(Baseline("mask"), Nothing(), keys.audit_master(0), 20, "blur")
    result, status, _ = run._anonymize(photo)
    assert status == "blurred" and len(np.unique(result[..., 3])) == 1
    assert np.abs(np.diff(result[..., :3].astype(int), axis=0)).max() <= 6


def test_flattening_is_what_a_viewer_shows():
    from PIL import Image

    photo = np.random.default_rng(0).integers(0, 256, (70, 1 << 15, 4), np.uint8)
    for background in (0, 255):
        page = Image.new("RGBA", photo.shape[1::-1], (background,) * 3 + (255,))
        page.alpha_composite(Image.fromarray(photo))
        shown = np.asarray(page.convert("RGB")).astype(int)
        assert np.abs(transparency.flatten(photo, background) - shown).max() <= 1
