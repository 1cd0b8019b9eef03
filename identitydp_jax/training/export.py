"""The network that a run has trained, as a file with its model card."""

import json
import pathlib

import jax
import ml_collections

from identitydp_jax import __version__, storage
from identitydp_jax.checks import UserError
from identitydp_jax.models import declared, face_source, prior
from identitydp_jax.models.layers import parameter_count
from identitydp_jax.models.pretrained import save
from identitydp_jax.training import state as states
from identitydp_jax.training.checkpoint import read_run
from identitydp_jax.weights.registry import WEIGHTS

_FACES = "mobilestylegan_synthesis_bin"

_CARD = """# Model card: {name}

An AEI-Net that draws faces of {resolution} px, {parameters:,} parameters, half precision, in
`{file}`, written by identitydp {version}:

    {command}

**Training:** {steps:,} steps of {batch_size} faces; the averaged parameters, with which faces are
drawn in use.

**Data:** {data}

**Ingredients and licences:**

{ingredients}

A model may be used as its strictest ingredient and its data allow.

**Measured:** nothing yet. `identitydp evaluate` measures it; look at every result before publishing
it.

**Configuration:**

```json
{configuration}
```
"""


def export_run(workdir, path, *, best: bool, command: str) -> None:
    """Export the newest or the best checkpoint of a run, which may be going on; see `export`.

    Raises `UserError` if there is none that can be read, or none has been measured.
    """
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def abstract(config):
        shapes = states.shapes(ml_collections.ConfigDict(config))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)

    config, state = read_run(pathlib.Path(workdir) / "checkpoints", abstract, best=best)
    export(
        path, ml_collections.ConfigDict(config), state.variables, steps=int(state.step),
        command=command,
    )  # fmt: skip


def export(path, config, variables, *, steps: int, command: str) -> None:
    """Write variables of a network as safetensors, in half precision, and a model card beside them.

    Heads for declared attributes go with it if there are any for its encoder.

    Args:
      path: the file; the card gets its name with the ending `.md`.
      config: the configuration of the run.
      variables: `TrainState.variables`, float32.
      steps: how many steps it was trained.
      command: the command line that exports it, for the card.

    Raises:
      UserError: a file can't be written, or a value is not finite in half precision.
    """
    path = pathlib.Path(path)
    card = path.with_suffix(".md")
    if card == path:
        raise UserError(f"{path}: is the name of the model card; give one that ends otherwise")
    heads = declared.load(config.encoder)
    if heads is not None:
        variables = {**variables, "declared": heads}
    network = states.network_config(config)
    if network.fusion == "prior":
        double = prior.double_parameters(face_source.load(), network)
        variables = {**variables, "double": double}
    save(path, network, variables, encoder=config.encoder)
    text = _CARD.format(
        name=path.stem, file=path.name, version=__version__, command=command, steps=steps,
        resolution=config.network.resolution, parameters=parameter_count(variables["params"]),
        batch_size=config.batch_size, data=_data(config), ingredients=_ingredients(config),
        configuration=json.dumps(config.to_dict(), indent=2),
    )  # fmt: skip
    try:
        storage.write(card, text.encode())
    except OSError as error:
        raise UserError(f"{card}: the model card cannot be written ({error.strerror})") from None


def _data(config) -> str:
    if config.data == "synthetic":
        return "faces of nobody, drawn while training by MobileStyleGAN."
    return f"`{config.data}`; say here who is on it, who agreed, and its licence."


def _ingredients(config) -> str:
    used = {config.encoder: "frozen in the losses and needed to use the model"}
    if config.loss.landmarks:
        used["landmarks68"] = "frozen in the losses"
    if config.data == "synthetic":
        used[_FACES] = "drew the faces"
    if config.network.get("fusion") == "prior":
        used[_FACES] = "part of the network, unchanged but for its last layers; drew the faces"
    return "\n".join(f"- {_licence(name)}; {use}" for name, use in used.items())


def _licence(name: str) -> str:
    if name not in WEIGHTS:
        return f"`{name}`: licence not known to the program"
    return f"`{name}` ({WEIGHTS[name].source}): {WEIGHTS[name].licence}"
