"""Nothing is released by a compiled program that gives other codes than it must."""

import pathlib

import jax
import numpy as np
import pytest
import tiny
from jax.experimental.compilation_cache import compilation_cache

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import checked_release, mechanism
from identitydp_jax.privacy.setting import PrivacySetting

RANDOM = PrivacySetting("random", dimension=128)


@pytest.fixture
def start(monkeypatch):
    """Begin as a new process does, with the compiled programs of a folder."""
    names = ("cache_dir", "persistent_cache_min_compile_time_secs")
    options = [name if name.startswith("pers") else f"compilation_{name}" for name in names]
    options.append("persistent_cache_min_entry_size_bytes")
    before = {name: getattr(jax.config, f"jax_{name}") for name in options}

    def fresh():
        compilation_cache.reset_cache()
        jax.clear_caches()
        checked_release.check_answers.cache_clear()
        checked_release._program.cache_clear()

    def begin(folder):
        fresh()
        for name, value in zip(options, (str(folder), 0, -1), strict=True):
            jax.config.update(f"jax_{name}", value)

    yield begin
    monkeypatch.undo()
    for name, value in before.items():
        jax.config.update(f"jax_{name}", value)
    fresh()


def _release():
    rows = np.ones((3, 128), np.float32)
    return checked_release.release_rows(rows, keys=tiny.keys(3), setting=RANDOM)


def _programs(folder):
    return sorted(pathlib.Path(folder).glob("jit__map_block-*-cache"))


def test_a_planted_program_without_noise_releases_nothing(start, tmp_path, monkeypatch):
    start(tmp_path / "mine")
    honest = _release()
    with monkeypatch.context() as patch:
        start(tmp_path / "theirs")
        noise = mechanism.random_codes
        patch.setattr(mechanism, "random_codes", lambda shape, *, key: 0 * noise(shape, key=key))
        patch.setattr(checked_release, "check_answers", lambda *_: None)
        assert not _release().any()
    (mine,), (theirs,) = _programs(tmp_path / "mine"), _programs(tmp_path / "theirs")
    start(tmp_path / "mine")
    np.testing.assert_array_equal(_release(), honest)  # what is kept is as good as what was made
    mine.write_bytes(theirs.read_bytes())
    start(tmp_path / "mine")
    with pytest.raises(UserError, match=r"mechanism random gives other codes .*empty .*mine"):
        _release()
    with pytest.raises(UserError, match="nothing is released"):  # nor the second time
        _release()


@pytest.mark.parametrize(("name", "dimension"), checked_release._ANSWERS)
def test_the_answers_are_those_of_the_mechanism(name, dimension):
    checked_release.check_answers(name, dimension)
    assert checked_release._ANSWERS[name, dimension]


def test_rows_of_any_number_are_released_by_the_program_that_was_checked(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(19, 128)).astype(np.float32)
    shapes = set()
    mapped = checked_release.map_rows

    def watch(function, arrays, block, keys):
        shapes.add(block.shape)
        return mapped(function, arrays, block, keys)

    monkeypatch.setattr(checked_release, "map_rows", watch)
    setting = PrivacySetting(dimension=128)
    for count in (0, 1, 8, 19):
        released = checked_release.release_rows(
            rows[:count], keys=tiny.keys(19)[:count], setting=setting
        )
        expected = mechanism.release(
            rows[:count], key=tiny.keys(19)[:count], mechanism="laplace", arrays=setting.arrays
        )
        np.testing.assert_array_equal(released, expected)
    assert shapes == {(8, 128)}
