"""Every mechanism at every budget: what likeness is left, and how well it still names people."""

import numpy as np

from identitydp_jax.anonymize.faces import embed_faces, release_faces
from identitydp_jax.anonymize.methods import IdentityDP, fit
from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import candidates, people
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.report import Curve, Figure, Report
from identitydp_jax.privacy.mechanism import decode
from identitydp_jax.privacy.setting import DELTA, MECHANISMS, PrivacySetting

EPSILONS = (1.0, 3.0, 6.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
_LEAST = 2

_NOTES = (
    "{who} Every second photo of each is released under a fresh key; the attacker sees the noised"
    " embedding itself, not a picture, and has the encoder's embeddings of the other photos. So"
    " this bounds what any picture drawn from it can tell on the identity channel.",
    f"epsilon: pure (delta 0), but of gaussian at delta {DELTA:g}; rho and epsilon at delta are"
    " what a ledger charges. Calibration certified-l2.",
    "TAR: true accept rate at a false accept rate of 1e-3.",
)


def run(bench: Bench) -> Report:
    """Release people's embeddings by each mechanism at each epsilon, and recognise them.

    Raises:
      UserError: no method is IdentityDP, whose encoder is used.
    """
    method = next((m for m in bench.methods if isinstance(m, IdentityDP)), None)
    if method is None:
        raise UserError("mechanisms: --method identitydp is needed")
    several = people.with_photos(bench.people, _LEAST)
    known, shown = people.split_photos(bench.people, several)
    names = bench.people[shown], bench.people[known]
    faces = fit(bench.faces.faces, method.resolution)
    truth, gallery = (embed_faces(method.model, faces[part]) for part in (shown, known))
    rows = {"no noise": {"cosine": Figure(1.0, 1), **people.recognition(truth, gallery, *names)}}
    lines = {}
    for name in MECHANISMS:
        for epsilon in EPSILONS if name != "random" else (0.0,):
            setting = PrivacySetting(name, epsilon, dimension=method.model.dimension)
            here = IdentityDP(method.model, setting)
            keys = candidates.release_keys(here, faces[shown], bench.seed, 0)
            codes = release_faces(here.model, faces[shown], keys=keys, setting=setting)
            noised = np.asarray(decode(codes))
            row = f"{name}, epsilon {epsilon:g}"
            rows[row] = {
                "expected cosine": Figure(setting.expected_cosine, 1),
                "cosine": Figure.mean((truth * noised).sum(axis=1), names[0]),
                **people.recognition(noised, gallery, *names),
                "rho": Figure(setting.rho, 1),
                f"epsilon at {DELTA:g}": Figure(setting.epsilon_at_delta, 1),
            }
            if epsilon:
                lines.setdefault(name, []).append((epsilon, row))
    rows["chance"] = chance = people.chance(*names)
    curves = [
        Curve(("cosine",), "epsilon", lines),
        Curve(("rank-1",), "epsilon", lines, {"chance": chance["rank-1"].value}),
    ]
    notes = [note.format(who=people.describe(bench.people, several, _LEAST)) for note in _NOTES]
    return Report("mechanisms", "Mechanisms against epsilon", rows, notes, curves=curves)
