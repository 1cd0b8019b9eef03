"""One training step of the AEI-Net, ours in JAX against the same network in PyTorch.

    python tests/benchmarks/training_step.py [--batch-size 8] [--resolution 128] [--width 0.125]

Both compute the generator's loss (hinge, attributes, reconstruction) and its gradients, then the
discriminator's, with the identity network left out, on the same shapes and cores. They take turns,
so that the machine's moods hit both; the ratio of the medians is what counts, and that of the
fastest steps where the machine has other work. Needs torch, which is no dependency of the project:
`pip install torch`, a build for CPUs where there is a choice.
"""

import argparse
import itertools
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

try:
    import torch
except ImportError:
    raise SystemExit("training_step.py: needs torch, see its docstring") from None
from torch import nn
from torch.nn import functional

from identitydp_jax.models.aeinet import AEIConfig, AEINet, variable_shapes
from identitydp_jax.models.discriminator import Discriminator
from identitydp_jax.models.layers import parameter_count
from identitydp_jax.training import losses


def main():
    """Time both in turn and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", type=int, default=2, help="cores for either (%(default)s)")
    args = parser.parse_args()
    # Before JAX makes its threads, one for each core that it may use.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    torch.set_num_threads(args.cores)
    config = AEIConfig(args.resolution, args.width, norm="batch")
    ours, theirs = _jax_step(config, args.batch_size), _torch_step(config, args.batch_size)
    times = {"jax": [], "torch": []}
    for _ in range(args.rounds):
        for name, step in (("jax", ours), ("torch", theirs)):
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    for what, pick in (("median", statistics.median), ("fastest", min)):
        picked = {name: pick(values[1:]) for name, values in times.items()}
        for name, seconds in picked.items():
            rate = args.batch_size / seconds
            print(f"{name}, {what}: {1000 * seconds:.0f} ms a step, {rate:.1f} faces/s")
        print(f"jax / torch, {what}: {picked['jax'] / picked['torch']:.2f}")


def _jax_step(config, batch_size):
    net, judge = AEINet(config), Discriminator(width=0.25)
    rng = np.random.default_rng(0)

    def fill(shapes):
        return jax.tree.map(
            lambda s: jnp.asarray(0.02 * rng.standard_normal(s.shape), jnp.float32), shapes
        )

    shapes = variable_shapes(config)
    batch_stats = jax.tree.map(lambda s: jnp.ones(s.shape), shapes["batch_stats"])
    faces = jnp.asarray(
        rng.uniform(-1, 1, (batch_size, config.resolution, config.resolution, 3)), jnp.float32
    )
    identity = jnp.asarray(rng.standard_normal((batch_size, 512)) / 512**0.5, jnp.float32)
    params = fill(shapes["params"])
    judge_params = fill(jax.eval_shape(judge.init, jax.random.key(0), faces)["params"])
    print(f"parameters: jax {parameter_count(params)}, {parameter_count(judge_params)}")

    def apply(variables, *inputs, method):
        return net.apply(variables, *inputs, train=True, method=method, mutable=["batch_stats"])[0]

    def generator_loss(params, judge_params, batch_stats, faces, identity):
        variables = {"params": params, "batch_stats": batch_stats}
        maps = apply(variables, faces, method="attributes")
        drawn = apply(variables, identity, maps, method="draw")
        again = apply(variables, drawn, method="attributes")
        logits = judge.apply({"params": judge_params}, drawn)
        loss = losses.generator_adversarial(logits, "hinge")
        loss += 10 * losses.attributes(again, maps, "mean")
        return loss + 10 * losses.reconstruction(drawn, faces, 1.0, "mean"), drawn

    def judge_loss(judge_params, faces, drawn):
        real, fake = (judge.apply({"params": judge_params}, x) for x in (faces, drawn))
        return losses.discriminator_adversarial(real, fake, "hinge")

    # All that a step takes is an argument: of constants XLA would compute some of it beforehand.
    @jax.jit
    def step(params, judge_params, batch_stats, faces, identity):
        gradient = jax.grad(generator_loss, has_aux=True)
        grads, drawn = gradient(params, judge_params, batch_stats, faces, identity)
        judge_grads = jax.grad(judge_loss)(judge_params, faces, jax.lax.stop_gradient(drawn))
        return [
            jax.tree.map(lambda p, g: p - 1e-4 * g, *pair)
            for pair in ((params, grads), (judge_params, judge_grads))
        ]

    args = params, judge_params, batch_stats, faces, identity
    return lambda: jax.block_until_ready(step(*args))


class _Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        widths = [3] + [config.channels(min(32 * 2**i, 1024)) for i in range(config.levels)]
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.1)
            )
            for a, b in itertools.pairwise(widths)
        )
        skips = widths[-2:0:-1]
        inputs = [widths[-1]] + [2 * s for s in skips[:-1]]
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.1)
            )
            for a, b in zip(inputs, skips, strict=True)
        )

    def forward(self, x):
        skips = []
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        maps = [skips.pop()]
        for layer in self.up:
            maps.append(torch.cat([layer(maps[-1]), skips.pop()], 1))
        return [*maps, _double(maps[-1])]


class _AAD(nn.Module):
    def __init__(self, features, attribute):
        super().__init__()
        self.norm = nn.BatchNorm2d(features, affine=False)
        self.attribute = nn.Conv2d(attribute, 2 * features, 1)
        self.identity = nn.Linear(512, 2 * features)
        self.mask = nn.Conv2d(features, 1, 1)

    def forward(self, h, attribute, identity):
        h = self.norm(h)
        gamma_att, beta_att = self.attribute(attribute).chunk(2, 1)
        gamma_id, beta_id = self.identity(identity)[:, :, None, None].chunk(2, 1)
        mask = torch.sigmoid(self.mask(h))
        by_attribute = gamma_att * h + beta_att
        return by_attribute + mask * ((1 + gamma_id) * h + beta_id - by_attribute)


class _Block(nn.Module):
    def __init__(self, features, out, attribute):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([_AAD(features, attribute), nn.Conv2d(features, o, 3, 1, 1, bias=False)])
            for o in ([features, out] if features == out else [features, out, out])
        )

    def forward(self, h, attribute, identity):
        def layer(i, x):
            aad, conv = self.layers[i]
            return conv(functional.relu(aad(x, attribute, identity)))

        skip = layer(2, h) if len(self.layers) == 3 else h
        return layer(1, layer(0, h)) + skip


class _Generator(nn.Module):
    def __init__(self, config):
        super().__init__()
        blocks = config.levels + 1
        outs = [3, *(config.channels(min(64 * 2**i, 1024)) for i in range(blocks))][:blocks][::-1]
        lift = config.channels(1024)
        widths = [config.channels(min(32 * 2**i, 1024)) for i in range(config.levels)]
        attributes = [widths[-1], *(2 * w for w in widths[-2::-1]), 2 * widths[0]]
        self.lift = nn.Linear(512, 4 * lift)
        ins = [lift, *outs[:-1]]
        self.blocks = nn.ModuleList(
            _Block(*each) for each in zip(ins, outs, attributes, strict=True)
        )

    def forward(self, identity, maps):
        identity = identity * 512**0.5
        h = self.lift(identity).reshape(len(identity), -1, 2, 2)
        for i, (block, attribute) in enumerate(zip(self.blocks, maps, strict=True)):
            h = block(h, attribute, identity)
            if i + 1 < len(self.blocks):
                h = _double(h)
        return torch.tanh(h)


def _judge(width=0.25, layers=3):
    modules, before = [], 3
    for i in range(layers + 1):
        features = round(min(64 * 2**i, 512) * width)
        modules.append(nn.Conv2d(before, features, 4, 2 if i < layers else 1, 2, bias=i == 0))
        modules += [nn.InstanceNorm2d(features)] if i else []
        modules.append(nn.LeakyReLU(0.2))
        before = features
    return nn.Sequential(*modules, nn.Conv2d(before, 1, 4, 1, 2))


def _double(x):
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _torch_step(config, batch_size):
    torch.manual_seed(0)
    encoder, generator = _Encoder(config), _Generator(config)
    judges = nn.ModuleList(_judge() for _ in range(3))
    ours = [*encoder.parameters(), *generator.parameters()]
    count = [sum(p.numel() for p in params) for params in (ours, judges.parameters())]
    print(f"parameters: torch {count[0]}, {count[1]}")
    optimizers = [torch.optim.SGD(p, 1e-4) for p in (ours, judges.parameters())]
    faces = torch.rand(batch_size, 3, config.resolution, config.resolution) * 2 - 1
    identity = torch.randn(batch_size, 512) / 512**0.5

    def logits(x):
        for judge in judges:
            yield judge(x)
            x = functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False)

    def step():
        maps = encoder(faces)
        drawn = generator(identity, maps)
        loss = -sum(x.mean() for x in logits(drawn)) / 3
        loss += 5 * sum(((a - b) ** 2).mean() for a, b in zip(encoder(drawn), maps, strict=True))
        loss += 5 * ((drawn - faces) ** 2).mean()
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        real, fake = logits(faces), logits(drawn.detach())
        loss = sum(
            functional.relu(1 - a).mean() + functional.relu(1 + b).mean()
            for a, b in zip(real, fake, strict=True)
        )
        optimizers[1].zero_grad()
        (loss / 3).backward()
        optimizers[1].step()

    return step


if __name__ == "__main__":
    main()
