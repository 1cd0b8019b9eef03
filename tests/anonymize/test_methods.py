import numpy as np
import pytest
import tiny
from fakes import FakeModel, paint

from identitydp_jax.anonymize import faces, methods
from identitydp_jax.baselines import k_same
from identitydp_jax.checks import UserError
from identitydp_jax.models.face_region import face_region
from identitydp_jax.privacy.setting import PrivacySetting

BASELINES = "pixelate:8", "pixelate:16", "noise:9", "blur:19", "mask", "k-same:10"


def _parse(spec, preserve=None, **setting):
    at = PrivacySetting(**setting).at
    return methods.parse(spec, model="default", setting=at, preserve=preserve)


def _keys(count, seed=0):
    return tiny.keys(count, seed)


@pytest.mark.parametrize("spec", BASELINES)
def test_baselines_are_named_as_they_are_asked_for_and_promise_nothing(spec):
    method = _parse(spec)
    assert method.name == spec and method.resolution == 256
    assert spec in method.summary and "without any privacy guarantee" in method.summary
    assert method.record == method.face_record == {}


def test_policies_differ_and_hold_the_gallery():
    policies = {_parse(spec).policy for spec in BASELINES}
    assert len(policies) == len(BASELINES)
    assert k_same.load_gallery()[1] in _parse("k-same:10").policy


@pytest.mark.parametrize(
    ("spec", "name", "epsilon"),
    [
        ("identitydp", "identitydp:2.5", 2.5),
        ("identitydp:100", "identitydp:100", 100.0),
        ("identitydp:0.01", "identitydp:0.01", 0.01),
        ("identitydp:random", "identitydp:random", 0.0),
    ],
)
def test_identitydp_takes_the_setting_unless_it_says_another(fake_model, spec, name, epsilon):
    method = _parse(spec, epsilon=2.5, calibration="paper")
    assert method.name == name and method.resolution == fake_model.resolution
    assert method.setting.epsilon == epsilon
    assert method.setting.calibration.name.startswith("paper") == (epsilon > 0)
    assert method.policy == method.setting.policy(FakeModel().sha256, FakeModel().encoder_sha256)
    assert _parse(method.name, calibration="paper").policy == method.policy


@pytest.mark.parametrize("mechanism", ["privunit", "gaussian"])
def test_a_mechanism_has_its_own_calibration(fake_model, mechanism):
    method = _parse(f"identitydp:{mechanism}:7", calibration="paper")
    assert method.setting == PrivacySetting(mechanism, 7.0)
    assert method.name == f"identitydp:{mechanism}:7" and mechanism in method.summary
    assert method.face_record["epsilon"] == 7.0


def test_a_calibration_of_another_encoder_is_refused():
    other = FakeModel(encoder_sha256="11" * 32)
    with pytest.raises(UserError, match="another identity encoder"):
        methods.IdentityDP(other, PrivacySetting(calibration="paper"))
    methods.IdentityDP(other, PrivacySetting())


def test_what_is_preserved_is_recorded_and_no_part_of_the_policy(fake_model):
    every, nothing = _parse("identitydp"), _parse("identitydp", preserve=())
    some = _parse("identitydp", preserve=("glasses",))
    assert every.record["preserve"] == ["gender", "glasses"] and nothing.record["preserve"] == []
    assert "preserves gender, glasses" in every.summary and "preserves" not in nothing.summary
    # The codes are the same, and remembered ones serve; the pictures are not.
    assert every.policy == some.policy == nothing.policy == nothing.recipe
    assert len({method.recipe for method in (every, some, nothing)}) == 3
    with pytest.raises(UserError, match="model fake can't preserve skin: it knows gender,glasses"):
        methods.IdentityDP(FakeModel(), PrivacySetting(), ("gender", "skin"))


def test_an_epsilon_ends_the_random_mechanism(fake_model):
    assert _parse("identitydp:3", mechanism="random").setting == PrivacySetting(epsilon=3.0)


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("", "choose one of identitydp, .*k-same:10"),
        ("magic:8", "choose one of identitydp"),
        ("mask:3", "choose one of identitydp"),
        ("identitydp:", "choose one of identitydp"),
        ("identitydp:low", "choose one of identitydp"),
        ("identitydp:-1", "epsilon is -1.0"),
        ("identitydp:nan", "epsilon is nan"),
        ("pixelate", "pixelate:N, N a whole number from 2 to 128"),
        ("pixelate:1", "from 2 to 128"),
        ("noise:0", "sigma, of 255"),
        ("noise:4.5", "whole number"),
        ("blur:²", "whole number"),
        ("k-same:65", "from 2 to 64"),
    ],
)
def test_what_is_no_method_is_said_in_one_line(fake_model, spec, line):
    with pytest.raises(UserError, match=line) as caught:
        _parse(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", BASELINES)
def test_a_face_is_its_own_whatever_the_batch(spec):
    method, aligned = _parse(spec), tiny.faces(3, 256)
    whole = method.draw(aligned, keys=_keys(3))
    assert whole.shape == aligned.shape and whole.dtype == np.uint8
    np.testing.assert_array_equal(method.draw(aligned[2:], keys=_keys(3)[2:]), whole[2:])
    assert (whole != aligned).any((1, 2, 3)).all()


def test_only_noise_reads_the_key():
    aligned = tiny.faces(1, 256)
    for spec in ("pixelate:8", "blur:19", "mask", "k-same:10"):
        one, other = (_parse(spec).draw(aligned, keys=_keys(1, seed)) for seed in (0, 1))
        np.testing.assert_array_equal(one, other)
    one, other = (_parse("noise:9").draw(aligned, keys=_keys(1, seed)) for seed in (0, 1))
    assert (one != other).mean() > 0.9


def test_the_mask_is_middle_grey():
    assert (_parse("mask").draw(tiny.faces(2, 256), keys=_keys(2)) == 128).all()


@pytest.mark.parametrize(
    ("shape", "dtype", "count", "line"),
    [
        ((2, 128, 128, 3), np.uint8, 2, r"give uint8 \(N, 256, 256, 3\)"),
        ((2, 256, 256, 3), np.float32, 2, "faces are float32"),
        ((2, 256, 256, 3), np.uint8, 3, "give one for each of 2"),
    ],
)
def test_wrong_faces_and_keys_are_named(shape, dtype, count, line):
    for act in (_parse("mask").draw, lambda *a, **k: methods.replace(_parse("mask"), *a, **k)):
        with pytest.raises(UserError, match=line):
            act(np.zeros(shape, dtype), keys=_keys(count))


@pytest.mark.parametrize("given", [None, [1], "x"])
def test_what_is_no_array_is_named(given):
    with pytest.raises(UserError, match=r"faces is a \w+: give a NumPy array"):
        _parse("mask").draw(given, keys=_keys(1))


def test_replace_puts_the_methods_face_under_the_mask():
    frames = tiny.faces(3, 256)
    before, method = frames.copy(), _parse("noise:49")
    result = methods.replace(method, frames, keys=_keys(3))
    drawn = method.draw(frames, keys=_keys(3))
    assert (frames == before).all() and result.dtype == np.uint8
    region = face_region(256)[..., 0]
    np.testing.assert_array_equal(result[:, region == 1], drawn[:, region == 1])
    np.testing.assert_array_equal(result[:, region == 0], frames[:, region == 0])
    assert (drawn[:, region == 0] != frames[:, region == 0]).any()


def test_replace_brings_frames_to_the_resolution_of_the_method(fake_model, monkeypatch):
    seen = []

    def keep(model, aligned, identities):
        seen.append(aligned)
        return aligned

    monkeypatch.setattr(faces, "draw_faces", keep)
    frames = tiny.faces(2, 256)
    result = methods.replace(_parse("identitydp"), frames, keys=_keys(2))
    assert seen[0].shape == (2, 64, 64, 3)
    assert np.abs(result.astype(int) - frames).max() < 12  # smooth faces survive 64 px in place

    monkeypatch.setattr(faces, "draw_faces", paint)
    painted = methods.replace(_parse("identitydp"), frames, keys=_keys(2))
    assert (painted[:, 100, 128] != painted[:1, 100, 128]).any()
    none = methods.replace(_parse("identitydp"), frames[:0], keys=_keys(2)[:0])
    assert none.shape == (0, 256, 256, 3)
