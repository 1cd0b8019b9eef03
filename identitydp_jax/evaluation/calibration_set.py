"""Measuring the paper's Delta on a set of photos."""

from identitydp_jax import __version__
from identitydp_jax.anonymize import faces, methods
from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import aligned
from identitydp_jax.evaluation.sources import Source
from identitydp_jax.privacy import distances, sensitivity


def measure(
    source: Source, *, detector, command: str, limit: int | None = None
) -> sensitivity.EmpiricalSensitivity:
    """Return the largest L1 distance between the faces of a set, over every pair.

    One face of each photo is found as `aligned.align` does and embedded as the default model does.
    This is a function of the photos and not private.

    Args:
      source: the photos; those with the same pixels as another count once.
      detector: `detector.detect(photo)` gives `data.detection.Detections`.
      command: to be noted.
      limit: take the first so many photos; None takes all.

    Raises:
      UserError: they show fewer than two different faces.
    """
    found = aligned.align(source, detector=detector, limit=limit)
    if len(found) < 2:
        raise UserError(f"{source.spec}: shows one face, which has no distance: give many photos")
    model = faces.load_model()
    embeddings = faces.embed_faces(model, methods.fit(found.faces, model.resolution))
    value, mean = distances.largest_and_mean(embeddings)
    if value == 0:
        raise UserError(f"{source.spec}: all faces look the same: give photos of many people")
    return sensitivity.measured(
        found.contents,
        value=value,
        mean=mean,
        encoder_sha256=model.encoder_sha256,
        description=(
            "of each photo the face nearest its centre, aligned to"
            f" {model.resolution} px and embedded as model {model.name} does"
        ),
        left_out=len(found.unreadable) + len(found.not_found) + len(found.duplicates),
        command=command,
        version=__version__,
    )
