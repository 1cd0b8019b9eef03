"""Training configurations: read from a file, changed from the command line, checked."""

import dataclasses
import difflib
import importlib.util
import math
import pathlib

from identitydp_jax.checks import UserError, one_of, positive

_COUNTS = ("batch_size", "accumulate", "steps", "log_every", "checkpoint_every", "keep", "held_out",
           "pool", "population", "freeze_statistics_at", "discriminator.layers")  # fmt: skip
_YES_OR_NO = ("augmentation", "fsdp", "remat", "mixture.anchored")
_COMPUTE = ("float32", "bfloat16")
_SHARES = ("mixture.same", "mixture.twin", "mixture.other", "mixture.noised")
_WEIGHTS = ("loss.adversarial", "loss.identity", "loss.attributes", "loss.reconstruction",
            "loss.texture", "loss.leak", "loss.colour", "loss.detail",
            "loss.landmarks", "loss.surroundings", "loss.edge", "loss.seam",
            "loss.styles", "loss.modulation", "clip")  # fmt: skip
_SEED_LIMIT = 2**32  # `jax.random.key` drops higher bits: two seeds would give the same run


def add_arguments(parser) -> None:
    """Add `--config` and `--set`, what `read_config` takes, to a command's arguments."""
    parser.add_argument("--config", required=True, help="configuration file, configs/NAME.py")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="change one value of the configuration, e.g. --set data=FOLDER; repeatable",
    )  # fmt: skip


def read_config(path, overrides=()):
    """Run `get_config()` of a configuration file and apply NAME=VALUE overrides.

    Raises `UserError` if the file has no `get_config`, or a name or value doesn't fit.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such configuration; see the folder configs/")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None:
        raise UserError(f"{path}: not a Python file; see the folder configs/")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path}: defines no get_config()")
    config = module.get_config()
    for override in overrides:
        _override(config, override)
    return config


def check(config) -> None:
    """Raise `UserError` naming the first value of a training configuration that can't be used."""
    # Here, because the command line reads this module before it may import jax.
    from identitydp_jax.models.aeinet import AEIConfig
    from identitydp_jax.models.discriminator import Discriminator
    from identitydp_jax.training import losses

    values = dict(_leaves(config))
    choices = {"loss.kind": losses.KINDS, "loss.reduction": losses.REDUCTIONS, "compute": _COMPUTE}
    needed = (*_COUNTS, *_YES_OR_NO, *_SHARES, *_WEIGHTS, *choices, "refresh", "seed", "data",
              "styles_steps", "coarse_steps", "coarse_rate", "encoder", "learning_rate",
              "frozen_rate", "average_decay", "softening", "momentum", "mixture.epsilon",
              "network.resolution", "discriminator.width")  # fmt: skip
    for name in needed:
        if name not in values:
            raise UserError(f"the configuration lacks {name}")
    parts = (("network", AEIConfig), ("discriminator", Discriminator))
    fields = (f"{part}.{field.name}" for part, kind in parts for field in dataclasses.fields(kind))
    settings = {*needed, *fields}
    for name in values:
        if name not in settings:
            raise UserError(f"{name}: no such setting{_nearest(name, settings)}")
    AEIConfig(**config.network)
    for name in _COUNTS:
        if not (isinstance(values[name], int) and values[name] >= 1):
            raise UserError(f"{name} is {values[name]}: give a whole number from 1")
    if not (isinstance(values["refresh"], int) and 0 <= values["refresh"] <= values["pool"]):
        raise UserError(f"refresh is {values['refresh']}: give a whole number from 0 to pool")
    if not (isinstance(values["coarse_steps"], int) and values["coarse_steps"] >= 0):
        raise UserError(f"coarse_steps is {values['coarse_steps']}: give a whole number from 0")
    if values["coarse_steps"] and not AEIConfig(**config.network).has_coarse:
        raise UserError(
            f"coarse_steps is {values['coarse_steps']}, but the network draws no coarse face: set"
            " network.coarse below network.resolution, or coarse_steps=0"
        )
    for name in _YES_OR_NO:
        if not isinstance(values[name], bool):
            raise UserError(f"{name} is {values[name]!r}: give True or False")
    if values["batch_size"] % values["accumulate"]:
        raise UserError(
            f"batch_size is {values['batch_size']}: make it a multiple of "
            f"accumulate={values['accumulate']}"
        )
    for name, known in choices.items():
        one_of(name, values[name], known)
    for name in (*_SHARES, *_WEIGHTS):
        if not (math.isfinite(values[name]) and values[name] >= 0):
            raise UserError(f"{name} is {values[name]}: give a finite number from 0")
    if sum(values[name] for name in _SHARES) > 1 + 1e-6:
        raise UserError(f"{', '.join(_SHARES)} add up to more than 1: give smaller shares")
    low, high = (positive("mixture.epsilon", bound) for bound in values["mixture.epsilon"])
    if low > high:
        raise UserError(f"mixture.epsilon is {(low, high)}: give the lower bound first")
    for name in ("learning_rate", "coarse_rate", "discriminator.width"):
        positive(name, values[name])
    for name in ("average_decay", "momentum"):
        if not 0 <= values[name] < 1:
            raise UserError(f"{name} is {values[name]}: give a number in [0, 1)")
    if not 0 <= values["softening"] <= 1:
        raise UserError(f"softening is {values['softening']}: give a number from 0 to 1")
    if not 0 <= values["seed"] < _SEED_LIMIT:
        raise UserError(f"seed is {values['seed']}: give a number from 0 to {_SEED_LIMIT - 1}")


def check_dimension(config, encode) -> None:
    """Raise `UserError` unless the network takes the embeddings that `config.encoder` gives.

    Here and not in `check`, because only the loaded encoder, `encode`, tells their length.
    """
    from identitydp_jax.training.state import network_config

    taken = network_config(config).identity_dimension
    if taken != encode.dimension:
        raise UserError(
            f"network.identity_dimension is {taken}, and the encoder {config.encoder} gives"
            f" embeddings of {encode.dimension}: set it to {encode.dimension}"
        )


def _override(config, override: str) -> None:
    name, separator, text = override.partition("=")
    known = dict(_leaves(config))
    if not separator or name not in known:
        hint = _nearest(name, known) or f"; there are {', '.join(sorted(known))}"
        raise UserError(f"--set {override}: give NAME=VALUE with a known NAME{hint}")
    old = known[name]
    try:
        config.update_from_flattened_dict({name: _parsed(text, old)})
    except (KeyError, TypeError, ValueError):
        kind = f"{len(old)} values A,B" if isinstance(old, tuple) else type(old).__name__
        raise UserError(f"--set {override}: {text!r} is not of type {kind}") from None


def _parsed(text: str, old):
    """Read a value of the same type as `old`; tuples as their entries between commas."""
    if isinstance(old, bool):  # bool("False") is True
        return {"true": True, "false": False}[text.lower()]
    if isinstance(old, tuple):
        return tuple(_parsed(t, o) for t, o in zip(text.split(","), old, strict=True))
    return type(old)(text)


def _nearest(name: str, known) -> str:
    """Return a hint at the known name that is most like a wrong one, or nothing."""
    # Whoever forgets the group means the name in it.
    full = {entry.rpartition(".")[2]: entry for entry in known} | {entry: entry for entry in known}
    close = difflib.get_close_matches(name, full, n=1)
    return f"; did you mean {full[close[0]]}?" if close else ""


def _leaves(config, prefix=""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
