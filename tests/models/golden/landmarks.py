"""A crop of a demo face, and the points that TensorFlow.js finds in it.

To make the numbers anew, in a folder with @tensorflow/tfjs 4 installed by npm:
python tests/models/golden/landmarks.py MANIFEST WEIGHTS
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

FILE = pathlib.Path(__file__).with_name("landmarks.npy")
_FACE = FILE.parents[3] / "identitydp_jax" / "demo_faces"
_SCRIPT = """
const tf = require(process.cwd() + "/node_modules/@tensorflow/tfjs"), fs = require("fs");
const [manifest, weights, crop] = process.argv.slice(1);
const {weights: entries} = JSON.parse(fs.readFileSync(manifest))[0];
const w = tf.io.decodeWeights(new Uint8Array(fs.readFileSync(weights)).buffer, entries);
const conv = (x, name, stride) => tf.add(w[name + "/bias"], w[name + "/filters"]
  ? tf.conv2d(x, w[name + "/filters"], stride, "same")
  : tf.separableConv2d(
      x, w[name + "/depthwise_filter"], w[name + "/pointwise_filter"], stride, "same"));
tf.setBackend("cpu").then(() => {
  let x = tf.tensor4d(Float32Array.from(fs.readFileSync(crop)), [1, 112, 112, 3]);
  x = x.sub([122.782, 117.001, 104.298]).div(255);
  for (const block of ["dense0", "dense1", "dense2", "dense3"]) {
    const a = tf.relu(conv(x, block + "/conv0", 2)), b = conv(a, block + "/conv1", 1);
    const c = conv(tf.relu(a.add(b)), block + "/conv2", 1);
    const d = conv(tf.relu(a.add(b).add(c)), block + "/conv3", 1);
    x = tf.relu(a.add(b).add(c).add(d));
  }
  x = tf.avgPool(x, 7, 2, "valid").reshape([1, 256]);
  const points = tf.matMul(x, w["fc/weights"]).add(w["fc/bias"]);
  console.log(JSON.stringify(Array.from(points.dataSync())));
});
"""


def crop():
    """Features of a demo face, uint8 (112, 112, 3)."""
    face = Image.open(sorted(_FACE.glob("*.jpg"))[0]).convert("RGB")
    side = face.width
    box = tuple(round(share * side) for share in (0.15, 0.3, 0.85, 1.0))
    return np.asarray(face.resize((112, 112), Image.Resampling.BICUBIC, box))


if __name__ == "__main__":
    bare = pathlib.Path("crop.bin")
    bare.write_bytes(crop().tobytes())
    command = ["node", "-e", _SCRIPT, *sys.argv[1:3], str(bare)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    np.save(FILE, np.float32(json.loads(answer.splitlines()[-1])).reshape(68, 2))
