import argparse
import os

import jax
import numpy as np
import pytest
from PIL import Image, ImageFont

from identitydp_jax import contact_sheet, demo
from identitydp_jax.checks import UserError
from identitydp_jax.models import population, pretrained
from identitydp_jax.models.aeinet import AEIConfig, variable_shapes

GUARANTEE = (
    "epsilon-local differential privacy of the identity embedding, given the attribute maps, the"
    " alignment and the detector's output"
)


def _run(*arguments):
    parser = argparse.ArgumentParser()
    demo.add_parser(parser.add_subparsers())
    return demo.run(parser.parse_args(["demo", *map(str, arguments)]))


def _tile(rng):
    side = contact_sheet._TILE
    lines = ("random identity, epsilon 0, key A", "expected cosine 0.000", "measured cosine -0.123")
    return contact_sheet.Tile(rng.integers(0, 256, (side, side, 3), np.uint8), lines)


def _positions(sheet, tile):
    """Return where a tile lies whole in the sheet, found by its first pixels."""
    pixels, side = np.asarray(sheet), tile.pixels.shape[0]
    runs = np.lib.stride_tricks.sliding_window_view(pixels, (1, 4, 3))[:, :, 0, 0]
    starts = np.argwhere((runs == tile.pixels[0, :4]).all((2, 3)))
    return [(y, x) for y, x in starts if (pixels[y : y + side, x : x + side] == tile.pixels).all()]


def test_sheet_shows_every_tile_whole_and_in_its_cell():
    rng = np.random.default_rng(0)
    rows = [[_tile(rng) for _ in range(len(contact_sheet.COLUMNS) + 1)] for _ in range(2)]
    sheet = contact_sheet.draw_sheet(rows, footer="model")
    places = [[_positions(sheet, tile) for tile in row] for row in rows]
    assert all(len(place) == 1 for row in places for place in row)
    ys, xs = np.moveaxis(np.array(places)[:, :, 0], 2, 0)
    assert (np.diff(xs, axis=1) > contact_sheet._TILE).all() and (xs[0] == xs[1]).all()
    assert (ys == ys[:, :1]).all()


def test_lines_under_a_face_do_not_reach_its_neighbour_or_the_next_row():
    rng = np.random.default_rng(0)
    tile = _tile(rng)
    font = ImageFont.load_default(15)
    assert all(font.getlength(line) <= contact_sheet._TILE for line in tile.lines)
    rows = [[tile] * (len(contact_sheet.COLUMNS) + 1)]
    with_text = np.asarray(contact_sheet.draw_sheet(rows, footer=""))
    bare = [[contact_sheet.Tile(tile.pixels, ())] * len(rows[0])]
    changed = (with_text != np.asarray(contact_sheet.draw_sheet(bare, footer=""))).any(2)
    assert changed.any()
    assert np.flatnonzero(changed.any(1)).max() < contact_sheet._HEAD + contact_sheet._ROW


def test_sheet_states_the_guarantee_in_its_exact_words_within_its_width():
    assert GUARANTEE in " ".join(contact_sheet._TEXT)
    width = contact_sheet.draw_sheet([], footer="").width
    font = ImageFont.load_default(15)
    assert all(
        font.getlength(line) < width - 2 * contact_sheet._MARGIN for line in contact_sheet._TEXT
    )


def test_low_budgets_are_shown_with_two_keys():
    for epsilon in (6.0, 100.0):
        used = {key for setting, key in contact_sheet.COLUMNS if setting.epsilon == epsilon}
        assert used == {"A", "B"}


def test_faces_ship_small_and_without_metadata():
    photos = contact_sheet._photos()
    assert len(photos) == 6 and list(photos)[-1].startswith("astronaut")
    paths = list(contact_sheet._FACES.glob("*.jpg"))
    assert sum(path.stat().st_size for path in paths) < 155_000
    for path in paths:
        with Image.open(path) as image:
            assert image.size == (256, 256) and not image.getexif()


def test_output_that_cannot_be_made_is_one_line_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: not a folder.*--output") as raised:
        _run("--output", tmp_path / "file", "--model", "no such model")
    assert "\n" not in str(raised.value)


def test_output_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*--output"):
        _run("--output", tmp_path / "file" / "below", "--model", "no such model")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_output_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="no permission"):
        _run("--output", tmp_path, "--model", "no such model")


def test_missing_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such model"):
        _run("--output", tmp_path, "--model", tmp_path / "no such model")


@pytest.mark.network
def test_demo_writes_a_sheet_of_anonymized_faces(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(contact_sheet, "COLUMNS", contact_sheet.COLUMNS[4:6])
    monkeypatch.setattr(contact_sheet, "_PHOTO_COLUMN", 0)
    config = AEIConfig(resolution=64, width=0.0625)
    rng = np.random.default_rng(0)
    shapes = {**variable_shapes(config), "population": population.zeros(512)}
    variables = jax.tree.map(lambda leaf: rng.uniform(0, 0.1, leaf.shape), shapes)
    pretrained.save(tmp_path / "model.safetensors", config, variables, encoder="w600k_mbf")

    assert _run("--output", tmp_path / "out", "--model", tmp_path / "model.safetensors") == 0

    printed = capsys.readouterr()
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["astronaut-anonymized.png", "contact-sheet.png"]
    assert printed.out.split() == [str(tmp_path / "out" / name) for name in reversed(written)]
    assert "audit seeds" in printed.err
    photos = contact_sheet._photos()
    photo = np.asarray(Image.open(tmp_path / "out" / "astronaut-anonymized.png"))
    astronaut = list(photos.values())[-1]
    assert photo.shape == astronaut.shape
    changed = (photo != astronaut).any(2)
    assert changed[80:170, 185:265].mean() > 0.9  # her face
    assert not changed[300:].any()
