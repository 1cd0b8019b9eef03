"""The command `identitydp audit`, its suites and its report."""

import argparse
import ast
import pathlib

import pytest

import identitydp_jax
from identitydp_jax.anonymize import audit_commands
from identitydp_jax.checks import UserError
from identitydp_jax.privacy import audit, audit_report, audit_suite
from identitydp_jax.privacy.audit import Finding


def run(*arguments):
    parser = argparse.ArgumentParser()
    audit_commands.add_parser(parser.add_subparsers())
    args = parser.parse_args(["audit", *map(str, arguments)])
    args.line = " ".join(["identitydp audit", *map(str, arguments)])
    return audit_commands.run(args)


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(audit_suite.audit, "DRAWS", 2**12)


def test_float_laplace_comes_out_as_broken(few_draws, capsys, tmp_path):
    report = tmp_path / "report.md"
    assert run("--mechanism", "float-laplace", "--epsilon", 6, "-o", report) == 1
    out, err = capsys.readouterr()
    assert [line[:4] for line in out.splitlines()] == ["FAIL", "FAIL"]
    assert "of a coordinate's outputs are impossible" in out and "BROKEN: 2 of 2" in err
    text = report.read_text()
    assert "**BROKEN" in text and "identitydp audit --mechanism float-laplace" in text
    (share,) = [float(word[:-1]) for word in out.split() if word.endswith("%")]
    assert 85 < share < 95


def test_an_audit_that_passes(capsys, tmp_path):
    report = tmp_path / "report.md"
    assert run("--mechanism", "random", "-o", report) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 5 and all(line.startswith("PASS") for line in lines)
    assert "All 5 checks passed" in err and "## Input unused" in report.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", ["laplace", "privunit", "gaussian"])
def test_every_suite_passes(mechanism, capsys):
    assert run("--mechanism", mechanism) == 0


@pytest.mark.parametrize("mechanism", ["laplace", "gaussian", "privunit"])
def test_suites_do_every_check_of_their_mechanism(mechanism, monkeypatch):
    def fake(check):
        return lambda *args, **kwargs: Finding(check, "x", True, "", 0.0)

    for module in (audit, audit_suite.audit_laplace):
        for name in [name for name in vars(module) if name.startswith("check_")]:
            monkeypatch.setattr(module, name, fake(name))
    found = {finding.check for finding in audit_suite.run(mechanism, [6.0], "certified-l2", seed=0)}
    every = {"exact", "lower_bound", "independence", "keys", "determinism"}
    if mechanism != "privunit":
        every.add("distribution")
    if mechanism == "laplace":
        every |= {"support", "guard"}
    assert found == {f"check_{name}" for name in every}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mechanism", "gaussian", "--calibration", "certified-l2"], "--calibration does not"),
        (["--mechanism", "random", "--epsilon", 1], "--epsilon does not go with"),
        (["--manifest", "x", "--seed", 1], "--seed does not go with --manifest"),
        (["--epsilon", -1], "epsilon is -1"),
        (["--mechanism", "float-laplace", "--epsilon", 1e99], "epsilon is 1e\\+99"),
        (["--calibration", "nonsense"], "calibration"),
        (["--seed", -1], "audit seed is -1"),
        (["--manifest", "nowhere"], "cannot read nowhere"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(UserError, match=message):
        run(*arguments)


def test_names_agree():
    assert tuple(audit_suite.EPSILONS) == audit_commands._MECHANISMS


def test_a_report_has_every_finding_and_its_statement():
    findings = [
        Finding("guard", "epsilon 6", True, "a|b", 0.0),
        Finding("keys", "epsilon 6", False, "bad", 1.0),
    ]
    text = audit_report.markdown(findings, title="Audit", command="identitydp audit")
    assert "| pass | epsilon 6 | a\\|b |" in text and "| **FAIL** | epsilon 6 | bad |" in text
    assert all(audit_report.STATEMENTS[finding.check] in text for finding in findings)
    assert "BROKEN: 1 of 2 checks failed (keys)" in text
    assert identitydp_jax.__version__ in text
    again = [Finding("replay", "a.png", False, "missing", 1.0)]
    assert audit_report.summary(again) == "NOT REPEATED: 1 of 1 checks failed (replay)"


def test_every_check_has_a_statement():
    sources = [*_files("audit*.py"), *_files("replay.py")]
    names = {
        node.args[0].value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding"
    }
    assert names == set(audit_report.STATEMENTS)


def test_a_report_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="name another file with --output"):
        audit_report.write(tmp_path / "file" / "report.md", "")


def test_only_the_audit_can_reach_the_float_example():
    users = {
        path.name
        for path in _files("*.py")
        if "audit_examples" in path.read_text() or "release_floats" in path.read_text()
    }
    assert users == {"audit_suite.py", "audit_examples.py"}


def _files(pattern):
    return sorted(pathlib.Path(identitydp_jax.__file__).parent.rglob(pattern))
