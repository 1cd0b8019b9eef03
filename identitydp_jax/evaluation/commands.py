"""The command `identitydp evaluate`: how well faces are hidden, how well the rest is kept."""

import argparse
import collections
import importlib
import importlib.util
import pathlib
import sys

from identitydp_jax import __version__
from identitydp_jax.checks import UserError, given_path

_PROTOCOLS = {
    "table1": "identity distance, protection success rate, PSNR, SSIM, detection (Table I)",
    "quality": "LPIPS, FID, drift of landmarks, pose and expression",
    "lfw": "true accept rate of original against anonymized photos (Table III)",
    "sweep": "everything against epsilon (figures 4 to 6)",
    "identity": "does the face obey its identity, do two keys give two people",
    "mechanisms": "cosine and recognition of the noised embedding, by mechanism and epsilon",
    "overhead": "time per image and stage (section V-H)",
    "parrot": "attack: a recogniser trained on anonymized faces",
    "averaging": "attack: many releases of one photo",
    "attributes": "attack: the untouched attribute maps alone",
    "reversal": "attack: a regressor from the anonymized face back",
    "known-key": "attack by somebody who has the key; must succeed",
}
_PAPER_METHODS = (
    "identitydp",
    *("pixelate:8", "pixelate:16", "noise:9", "noise:49", "blur:7", "blur:19"),
    *("mask", "k-same:10"),
)


def add_parser(subparsers) -> None:
    """Add `evaluate` to the program's subcommands."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure how well faces are hidden and what is kept",
        description="Measure ways to anonymize on photos of people, as the paper does and as"
        " attackers would. Writes PROTOCOL.json, PROTOCOL.md and pictures. The same command"
        " continues a stopped run.",
        epilog="Protocols: " + "; ".join(f"{name}: {what}" for name, what in _PROTOCOLS.items()),
    )
    parser.add_argument("protocol", choices=_PROTOCOLS, metavar="PROTOCOL", help="see below")
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="SOURCE",
        help="folder with a subfolder per person or identities.csv, flat folder, tfds:NAME[:SPLIT];"
        " or original=SOURCE anonymized=[NAME:]FOLDER ... for what other tools made",
    )
    parser.add_argument("--output", "-o", required=True, metavar="DIR", help="folder for results")
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        help="a way to anonymize, may be repeated; by default identitydp and all baselines, or"
        " none beside anonymized= folders",
    )
    parser.add_argument(
        "--verifier",
        action="append",
        default=[],
        help="facenet-casia, facenet-vggface2, dlib, edgeface, sface, arcface, or MODULE:OBJECT of"
        " your own; may be repeated; by default the protocol's",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N photos")
    parser.add_argument(
        "--releases",
        type=int,
        metavar="K",
        help="keys per face; by default the protocol's",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="audit seed of all keys (%(default)s)"
    )
    parser.add_argument(
        "--model", default="default", help="name or file of a trained model (%(default)s)"
    )
    parser.add_argument(
        "--preserve",
        metavar="LIST",
        help="declared attributes that the method identitydp preserves, or none (all it can)",
    )
    parser.add_argument(
        "--epsilon", type=float, default=6.0, help="of the method identitydp (%(default)s)"
    )
    parser.add_argument(
        "--calibration",
        default="certified-l2",
        help="certified-l2, certified-l1:S, paper or paper:FILE (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and write the report; return 0."""
    from identitydp_jax.evaluation import report

    for name, least in (("limit", 1), ("releases", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}: give a number from {least}")
    output = given_path(args.output)
    bench = _prepare(args, output)
    module = "identitydp_jax.evaluation.protocols." + args.protocol.replace("-", "_")
    result = importlib.import_module(module).run(bench)
    if result.curves and importlib.util.find_spec("matplotlib") is None:
        result.curves.clear()
        bench.missing["plots"] = (
            "matplotlib isn't installed: pip install 'identitydp-jax[evaluation]'"
        )
    for path in report.write(result, _facts(args, bench), output):
        print(path)
    for name, why in bench.missing.items():
        print(f"identitydp: not measured, {name}: {why}", file=sys.stderr)
    return 0


def _prepare(args, output: pathlib.Path):
    from identitydp_jax.anonymize import methods
    from identitydp_jax.data.detection import Detector
    from identitydp_jax.evaluation import aligned, sources
    from identitydp_jax.evaluation.bench import Bench
    from identitydp_jax.evaluation.store import Store
    from identitydp_jax.models import declared
    from identitydp_jax.privacy.setting import PrivacySetting

    source, folders = sources.open_data(args.data)
    setting = PrivacySetting(epsilon=args.epsilon, calibration=args.calibration)
    specs = args.method or ([] if folders else _PAPER_METHODS)
    preserve = None if args.preserve is None else declared.parse(args.preserve)
    chosen = [
        methods.parse(spec, model=args.model, setting=setting.at, preserve=preserve)
        for spec in specs
    ]
    names = collections.Counter(["original", *(method.name for method in chosen), *folders])
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(
            f"two rows are called {twice[0]}: give each --method once, and each folder"
            " a name of its own by anonymized=NAME:FOLDER"
        )
    faces = aligned.align(source, detector=Detector(), limit=args.limit)
    for method in chosen:
        if isinstance(method, methods.IdentityDP):
            for content in faces.contents:
                method.setting.check_disjoint(content)
    pictures = {name: aligned.align_other(faces, folder) for name, folder in folders.items()}
    store = Store(output / "measured")
    return Bench(
        source=source,
        faces=faces,
        methods=tuple(chosen),
        pictures=pictures,
        store=store,
        verifiers=tuple(args.verifier),
        releases=args.releases,
        seed=args.seed,
    )


def _facts(args, bench) -> dict:
    faces = bench.faces
    return {
        "identitydp": __version__,
        "command": args.line,
        "data": {
            "source": " ".join(args.data),
            "photos": len(faces)
            + len(faces.unreadable)
            + len(faces.not_found)
            + len(faces.duplicates),
            "faces": len(faces),
            "people": len(set(faces.identities[faces.known].tolist())),
            "sha256": faces.digest,
            "unreadable": [list(each) for each in faces.unreadable],
            "no_face_found": [list(each) for each in faces.not_found],
            "duplicates": [list(each) for each in faces.duplicates],
        },
        "methods": {method.name: method.recipe for method in bench.methods},
        "weights": dict(sorted((_weights(bench) | bench.weights).items())),
        "missing": bench.missing,
    }


def _weights(bench) -> dict[str, str]:
    """Return the hashes of what found the faces and of what the model embeds them with."""
    from identitydp_jax.anonymize.methods import IdentityDP
    from identitydp_jax.weights.registry import WEIGHTS

    names = ["scrfd_500m"]
    if any(isinstance(method, IdentityDP) for method in bench.methods):
        names.append("w600k_mbf")
    return {name: WEIGHTS[name].sha256 for name in names}
