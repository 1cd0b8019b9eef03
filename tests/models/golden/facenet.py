"""Inputs and TensorFlow's outputs of the published FaceNet graphs.

To make the numbers anew, with tensorflow, scikit-image and pillow installed:
python tests/models/golden/facenet.py graph_final.pb 20180402-114759.pb
"""

import pathlib
import sys

import numpy as np
import skimage.data
from PIL import Image

FILE = pathlib.Path(__file__).with_suffix(".npz")
_DEMO_FACE = FILE.parents[3] / "identitydp_jax" / "demo_faces" / "000006.jpg"


def inputs():
    """Noise, a photo of a face and a generated face, (3, 160, 160, 3) float32 in [-1, 1]."""
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3))
    photo = skimage.data.astronaut()[45:205, 145:305]
    generated = np.asarray(Image.open(_DEMO_FACE).convert("RGB"))[56:216, 48:208]
    return (np.stack([noise, photo, generated]).astype(np.float32) - 127.5) / 128


def _embeddings(path, faces):
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default(), tf.Session() as session:
        graph = tf.GraphDef.FromString(pathlib.Path(path).read_bytes())
        tf.import_graph_def(graph, name="")
        feeds = {}
        if any(node.name == "phase_train" for node in graph.node):
            feeds["phase_train:0"] = False
        # One graph is frozen for batches of one.
        rows = [session.run("embeddings:0", {"input:0": face[None], **feeds}) for face in faces]
    return np.concatenate(rows)


if __name__ == "__main__":
    casia, vggface2 = (_embeddings(path, inputs()) for path in sys.argv[1:])
    np.savez(FILE, facenet_casia=casia, facenet_vggface2=vggface2)
