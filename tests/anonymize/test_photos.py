import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import FakeModel, FixedDetector, MarkerDetector, paint, picture, points_in, release
from PIL import Image

from identitydp_jax.anonymize import commands, faces, photos
from identitydp_jax.anonymize.methods import Baseline, IdentityDP
from identitydp_jax.checks import UserError
from identitydp_jax.privacy import keys
from identitydp_jax.privacy.setting import PrivacySetting

BOXES = (20, 20, 60, 75), (100, 30, 140, 85)
SMALL = (80, 95, 90, 107)


@pytest.fixture(autouse=True)
def _fake(fake_model):
    pass


def _anonymize(photo, *, seed=0, method=None, detector=None, **options):
    return photos.anonymize_photo(
        method or IdentityDP(FakeModel(), PrivacySetting()),
        photo,
        master=keys.audit_master(seed),
        detector=detector or MarkerDetector(),
        **options,
    )


def _centre(photo, box):
    return tuple(photo[(box[1] + box[3]) // 2, (box[0] + box[2]) // 2])


def test_every_face_is_replaced_and_the_photo_given_is_not_touched():
    photo = picture(*BOXES)
    before = photo.copy()
    result, records = _anonymize(photo)
    assert (photo == before).all()
    assert result.shape == photo.shape and result.dtype == np.uint8
    assert len(MarkerDetector().detect(result)) == 0
    assert [record.handled for record in records] == ["anonymized"] * 2
    assert sorted(record.box for record in records) == sorted(BOXES)
    assert (result[-5:] == before[-5:]).all()


def test_faces_of_a_photo_do_not_share_noise():
    result, _ = _anonymize(picture(*BOXES))
    assert _centre(result, BOXES[0]) != _centre(result, BOXES[1])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"method": IdentityDP(FakeModel(), PrivacySetting(epsilon=1.0))},
        {"method": IdentityDP(FakeModel(), PrivacySetting(calibration="paper"))},
        {"method": IdentityDP(FakeModel("fake", "11" * 32), PrivacySetting())},
    ],
)
def test_the_noise_is_another_for_another_key_setting_or_model(change):
    photo = picture(*BOXES)
    result, _ = _anonymize(photo)
    assert (_anonymize(photo)[0] == result).all()
    other, _ = _anonymize(photo, **change)
    assert _centre(other, BOXES[0]) != _centre(result, BOXES[0])


def test_the_noise_is_another_for_another_photo():
    photo = picture(*BOXES)
    changed = photo.copy()
    changed[-1, -1] += 1
    assert _centre(_anonymize(photo)[0], BOXES[0]) != _centre(_anonymize(changed)[0], BOXES[0])


def test_the_keys_are_those_of_the_setting_with_the_model(monkeypatch):
    used = []

    def keep_keys(model, crops, *, keys, setting):
        used.append((crops, keys))
        return release(model, crops, keys=keys, setting=setting)

    monkeypatch.setattr(faces, "release_faces", keep_keys)
    photo = picture(BOXES[0])
    _anonymize(photo)
    ((crops, used_keys),) = used
    digest, crop = (
        hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        for pixels in (photo, crops[0])
    )
    expected = keys.face_key(
        keys.audit_master(0),
        digest=digest,
        crop=crop,
        policy=PrivacySetting().policy(FakeModel().sha256, FakeModel().encoder_sha256),
        box=np.array(BOXES[0], np.float32),
    )
    assert (jax.random.key_data(used_keys[0]) == jax.random.key_data(expected)).all()


def test_a_baseline_acts_on_the_face_alone():
    photo = picture(*BOXES)
    result, records = _anonymize(photo, method=Baseline("mask"))
    assert [record.handled for record in records] == ["anonymized"] * 2
    assert _centre(result, BOXES[0]) == _centre(result, BOXES[1]) == (128, 128, 128)
    for left, top, right, bottom in BOXES:  # the features, in the inner 70 %
        inside = result[top + 9 : bottom - 9, left + 6 : right - 6]
        assert len(MarkerDetector().detect(inside)) == 0
    assert (result[-5:] == photo[-5:]).all()


def test_all_faces_go_through_the_model_at_once(monkeypatch):
    sizes = []

    def counting(model, crops, identities):
        sizes.append(crops.shape)
        return paint(model, crops, identities)

    monkeypatch.setattr(faces, "draw_faces", counting)
    many = [(x, y, x + 24, y + 33) for x in range(20, 800, 80) for y in range(20, 500, 80)]
    result, records = _anonymize(picture(*many, size=(520, 840)))
    assert sizes == [(60, 64, 64, 3)] and len(records) == 60
    assert len(MarkerDetector().detect(result)) == 0


def test_small_faces_are_pixelated_not_left():
    photo = picture(*BOXES, SMALL)
    noisy = photo[SMALL[1] : SMALL[3], SMALL[0] : SMALL[2]]
    noisy[:, ::2] = (255, 60, 200)
    result, records = _anonymize(photo, min_face=20)
    assert [record.handled for record in records] == ["pixelated", "anonymized", "anonymized"]
    assert records[0].box == SMALL and "min_face" in records[0].reason
    small = result[SMALL[1] : SMALL[3], SMALL[0] : SMALL[2]].reshape(-1, 3)
    assert len(np.unique(small, axis=0)) <= 16
    _, records = _anonymize(photo, min_face=5)
    assert {record.handled for record in records} == {"anonymized"}


def test_small_faces_are_gone_before_their_neighbours_are_cropped(monkeypatch):
    seen = []

    def keep(model, crops, identities):
        seen.append(crops)
        return crops

    monkeypatch.setattr(faces, "draw_faces", keep)
    photo = picture((40, 30, 90, 95), (95, 50, 103, 60))
    photo[50:60, 95:103:2] = (200, 70, 255)
    boxes = [(40, 30, 90, 95), (95, 50, 103, 60)]
    _anonymize(photo, detector=FixedDetector(boxes))
    assert not (seen[0] == (200, 70, 255)).all(-1).any()


@pytest.mark.parametrize("points", ["nan", "one place", "elsewhere"])
def test_faces_without_a_frame_are_pixelated(points):
    boxes = np.array(BOXES, np.float32)
    broken = points_in(boxes)
    broken[0] = {"nan": np.nan, "one place": 40.0, "elsewhere": broken[0] + 60}[points]
    photo = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    result, records = _anonymize(photo, detector=FixedDetector(BOXES, broken))
    by_box = {record.box: record for record in records}
    assert by_box[BOXES[0]].handled == "pixelated" and by_box[BOXES[0]].reason
    assert by_box[BOXES[1]].handled == "anonymized"
    left, top, right, bottom = BOXES[0]
    assert len(np.unique(result[top:bottom, left:right].reshape(-1, 3), axis=0)) <= 16


def test_only_unusable_faces_need_no_model(monkeypatch):
    monkeypatch.setattr(faces, "release_faces", None)
    _, records = _anonymize(picture(SMALL))
    assert [record.handled for record in records] == ["pixelated"]


def test_no_face_is_an_error():
    with pytest.raises(photos.NoFaceFound):
        _anonymize(picture())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([[[1, 2, 3]]], "photo is a list: give a NumPy array"),
        (None, "photo is a NoneType: give a NumPy array"),
        (Image.fromarray(picture(*BOXES)), "photo is a Image: give a NumPy array"),
        ("photo.jpg", "photo is a str: give a NumPy array"),
        (picture(*BOXES).astype(np.float32), r"photo is float32 \(120, 160, 3\): give uint8"),
        (picture(*BOXES)[..., 0], r"photo is uint8 \(120, 160\): give uint8"),
        (picture(*BOXES)[:0], r"give uint8"),
    ],
)
def test_what_is_no_photo_is_named(given, said):
    with pytest.raises(UserError, match=said):
        _anonymize(given)


def test_an_array_of_jax_is_a_photo_too():
    photo = picture(*BOXES)
    result, records = _anonymize(jnp.asarray(photo))
    expected, same = _anonymize(photo)
    assert type(result) is np.ndarray and (result == expected).all() and records == same


def test_the_command_has_the_same_default():
    import argparse

    parser = argparse.ArgumentParser()
    commands.add_parser(parser.add_subparsers())
    args = parser.parse_args(["anonymize", "x", "--output", "y"])
    assert args.min_face == photos.MIN_FACE


def test_the_help_of_the_command_states_the_defaults_of_the_setting(capsys):
    import argparse

    parser = argparse.ArgumentParser()
    commands.add_parser(parser.add_subparsers())
    with pytest.raises(SystemExit):
        parser.parse_args(["anonymize", "--help"])
    text, setting = " ".join(capsys.readouterr().out.split()), PrivacySetting()
    for default in (f"{setting.epsilon:g}", setting.mechanism, setting.calibration.name):
        assert f"({default})" in text


def test_the_last_bits_of_a_detector_decide_nothing(fake_model):
    boxes = np.array(BOXES, np.float32)
    photo = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    results = [
        _anonymize(photo, detector=FixedDetector(boxes, points_in(boxes) + shift))[0]
        for shift in (0.0, 1e-5)
    ]
    assert (results[0] == results[1]).all()
