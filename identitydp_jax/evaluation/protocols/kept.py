"""What an onlooker would say of a face before and after: gender, age, skin, glasses, and so on."""

import numpy as np

from identitydp_jax.evaluation import bootstrap, celeba_heads, skin
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.candidates import ORIGINAL
from identitydp_jax.evaluation.report import Figure, Report

MEASURES = ("attributes", "skin", "eyes", "pose")
_COLUMNS = dict(
    zip(
        celeba_heads.ATTRIBUTES,
        ("gender", "age group", "glasses", "beard", "smile", "mouth open"),
        strict=True,
    )
)
_SKIN = "skin"
_OPEN = 0.22  # below it lie closed and strongly narrowed eyes, those of 4 faces in 100

_NOTES = (
    "Gender, age group, glasses, beard, smile and mouth open: share of faces of which heads trained"
    " on CelebA's labels say the same before and after (`evaluation/celeba_heads.md` says how often"
    " they are right). They are impressions: two genders and two age groups, young and not young,"
    " are all that CelebA's labels have.",
    "`balanced`: the mean of that over those of whom the one was said before and those of whom the"
    " other was; where few wear glasses, taking all of them away leaves most faces as they were.",
    "Eyes open: the same for eyes whose lids are more than {open} of their width apart, by"
    " MediaPipe's iris network; all others, closed or narrowed, count as not open.",
    "Skin: share whose colour group (dark, brown, tan, intermediate, light, very light by the"
    " typology angle of the cheeks) is the same or the next; `skin °`: mean change of that angle.",
    "Pose: mean length of the change of yaw, pitch and roll of MediaPipe's face mesh. Gaze: that of"
    " the change of yaw and pitch of the eyes in their head, mean of both eyes, by its iris"
    " network. Both in radians.",
    "`chance`: what two photos of these at random agree in.",
    "Points are placed and heads asked whether or not a detector finds the face.",
)


def run(bench: Bench) -> Report:
    """Compare what is said of every candidate's faces with what is said of the originals."""
    wanted = bench.load(MEASURES)
    before = bench.measure(bench.original, wanted)
    said, examples = answers(before), bench.examples()
    rows, sheet = {}, {ORIGINAL: bench.faces.faces[examples]}
    for candidate in bench.candidates():
        after = bench.measure(candidate, wanted)
        rows[candidate.name] = _row(said, answers(after), bench.people)
        changes = _changes(before, after)
        rows[candidate.name] |= {n: Figure.mean(v, bench.people) for n, v in changes.items()}
        sheet[candidate.name] = candidate.draw(examples, 0)
    rows["chance"] = _chance(said)
    notes = [note.format(open=_OPEN) for note in _NOTES]
    return Report("kept", "What is kept of a face's looks", rows, notes, sheet)


def answers(measured: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what is said of N faces, by column: bool (N,), or the number of a group (N,)."""
    said = {}
    if "attributes" in measured:
        said |= dict(zip(_COLUMNS.values(), (measured["attributes"] > 0).T, strict=True))
    if "eyes" in measured:
        said["eyes open"] = measured["eyes"][..., 0].mean(axis=1) > _OPEN
    if "skin" in measured:
        said[_SKIN] = skin.groups(measured["skin"])
    return said


def agreement(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return whether answers agree, bool (N,) by column; neighbouring groups of skin do."""
    return {
        name: np.abs(said.astype(int) - after[name].astype(int)) <= (name == _SKIN)
        for name, said in before.items()
    }


def _row(before, after, people) -> dict[str, Figure]:
    row = {}
    for name, agrees in agreement(before, after).items():
        row[name] = Figure.mean(agrees, people)
        if name != _SKIN:
            row[f"{name}, balanced"] = _balanced(agrees, before[name], people)
    return row


def _changes(before, after) -> dict[str, np.ndarray]:
    """Return by how much what has no answers changed, (N,) by column."""
    changes = {}
    if "skin" in before:
        changes["skin °"] = np.abs(after["skin"] - before["skin"])
    if "pose" in before:
        changes["pose, rad"] = np.linalg.norm(after["pose"] - before["pose"], axis=1)
    if "eyes" in before:
        turned = (after["eyes"] - before["eyes"])[..., 1:].mean(axis=1)
        changes["gaze, rad"] = np.linalg.norm(turned, axis=1)
    return changes


def _balanced(agrees, said, people) -> Figure:
    """Return the mean of two shares that agree: of those with either answer before."""

    def mean(rows):
        return np.mean([rows[rows[:, 1] == kind, 0].mean() for kind in np.unique(rows[:, 1])])

    values = np.stack([agrees, said], axis=1).astype(np.float64)
    low, high = bootstrap.interval(values, mean, groups=people)
    return Figure(float(mean(values)), len(values), low, high)


def _chance(said) -> dict[str, Figure]:
    row = {}
    for name, answer in said.items():
        share = np.bincount(answer.astype(int)) / len(answer)
        near = np.abs(np.subtract.outer(*[np.arange(len(share))] * 2)) <= (name == _SKIN)
        row[name] = Figure(float(share @ near @ share), len(answer))
        if name != _SKIN:
            row[f"{name}, balanced"] = Figure(0.5, len(answer))
    return row
