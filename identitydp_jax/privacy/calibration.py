"""L1 sensitivities of unit identity embeddings: what a noise scale is measured against."""

import dataclasses
import math

EMBEDDING_DIM = 512
CALIBRATIONS = ("certified-l2", "paper")


@dataclasses.dataclass(frozen=True)
class EmpiricalSensitivity:
    """The largest L1 distance between the embeddings of a stated set of faces.

    Attributes:
      value: the distance, Delta in the paper.
      encoder_sha256: SHA-256 of the pretrained file of the identity encoder.
      faces: how many faces were compared.
      pairs: how many pairs, faces * (faces - 1) / 2.
      files_sha256: names the set: SHA-256 over the sorted hexadecimal SHA-256 digests of its
        files, each followed by a newline.
      description: which faces these are and how they were embedded.
    """

    value: float
    encoder_sha256: str
    faces: int
    pairs: int
    files_sha256: str
    description: str


PAPER = EmpiricalSensitivity(
    value=29.8601,
    encoder_sha256="9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
    faces=5_000,
    pairs=12_497_500,
    files_sha256="52f9820fcb537a7750200c2ff711e026b38396ca9b8639a081e27681b3395a98",
    description=(
        "Faces of nobody, drawn by MobileStyleGAN: for every even N below 10,000 a latent from "
        "numpy.random.RandomState(1000 + N), 512 normals, then truncation psi = uniform(0.75, 1) "
        "towards the mean of 4,096 mapped latents of RandomState(0); 1024 px reduced to 256 by "
        "area, JPEG quality 92; models.identity_crop to 112 px; the encoder w600k_mbf; distances "
        "in float64, the largest, 29.86004, rounded up. The mean distance is 24.683."
    ),
)


def l1_sensitivity(calibration: str) -> float:
    """Return Delta of a calibration, the L1 distance that epsilon is spread over.

    ``certified-l2``: 2 sqrt(512) = 45.25, as ||r - r'||_1 <= sqrt(d) ||r - r'||_2 <= 2 sqrt(d);
    it holds for any two unit vectors. ``paper``: the empirical `PAPER.value`, which bounds the
    faces it was measured on and no others.
    """
    return {"certified-l2": 2.0 * math.sqrt(EMBEDDING_DIM), "paper": PAPER.value}[calibration]
