"""Lays out a folder of photos with identities as LFW is, with a pairs.txt of its own.

  python tests/benchmarks/lfw_layout.py PHOTOS lfw/
  identitydp evaluate lfw --data lfw/ --output results/

PHOTOS is any source with identities that `identitydp evaluate --data` takes. Photos become
`person-NAME/person-NAME_0001.png` and so on; pairs are drawn by `pairs.draw_pairs`.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image

from identitydp_jax.evaluation.pairs import draw_pairs, write_pairs
from identitydp_jax.evaluation.sources import open_source


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--per-fold", type=int, default=300)
    args = parser.parse_args()
    source, names, people, count = open_source(args.source), [], [], {}
    for photo in (source[i] for i in range(len(source))):
        if photo.identity is None:
            continue
        person = f"person-{photo.identity}"
        count[person] = count.get(person, 0) + 1
        names.append(f"{person}/{person}_{count[person]:04d}.png")
        people.append(person)
        path = args.output / names[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo.read()).save(path)
    pairs = draw_pairs(np.array(people), per_fold=args.per_fold)
    write_pairs(args.output / "pairs.txt", pairs, names)
    print(f"{len(names)} photos of {len(count)} people, {len(pairs)} pairs in {args.output}")


if __name__ == "__main__":
    main()
