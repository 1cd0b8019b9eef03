import pathlib

import pytest
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.training.configuration import check, read_config

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_of_the_repository_is_sound(path):
    check(read_config(path))


def test_overrides_change_values_and_keep_types():
    config = tiny.training_config(
        "batch_size=16", "learning_rate=1e-3", "data=a=b", "loss.kind=log", "mixture.epsilon=20,3e3"
    )
    assert config.batch_size == 16
    assert config.learning_rate == 1e-3
    assert config.data == "a=b"
    assert config.loss.kind == "log"
    assert config.mixture.epsilon == (20.0, 3000.0)


@pytest.mark.parametrize(("text", "value"), [("false", False), ("False", False), ("True", True)])
def test_truth_is_read_as_a_word(text, value):
    assert tiny.training_config(f"fsdp={text}").fsdp is value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lerning_rate=1", "--set lerning_rate=1: .*did you mean learning_rate?"),
        ("resolution=64", "did you mean network.resolution?"),
        ("loss.colors=1", "did you mean loss.colour?"),
        ("xyz=1", "there are accumulate, augmentation, average_decay"),
        ("network=1", "did you mean network"),
        ("batch_size", "--set batch_size: give NAME=VALUE"),
        ("=3", "give NAME=VALUE"),
        ("batch_size=many", "'many' is not of type int"),
        ("batch_size=1.5", "'1.5' is not of type int"),
        ("learning_rate=fast", "'fast' is not of type float"),
        ("fsdp=maybe", "'maybe' is not of type bool"),
        ("remat=1", "'1' is not of type bool"),
        ("mixture.epsilon=5", "'5' is not of type 2 values A,B"),
        ("mixture.epsilon=5,6,7", "is not of type 2 values A,B"),
        ("mixture.epsilon=low,high", "is not of type 2 values A,B"),
    ],
)
def test_wrong_overrides_are_named_with_the_nearest_name(override, message):
    with pytest.raises(UserError, match=message) as caught:
        tiny.training_config(override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=0", "batch_size is 0: give a whole number from 1"),
        ("log_every=0", "log_every is 0"),
        ("checkpoint_every=-1", "checkpoint_every is -1"),
        ("loss.kind=wasserstein", "loss.kind is 'wasserstein': choose one of log, hinge"),
        ("loss.reduction=max", "loss.reduction is 'max': choose one of sum, mean"),
        ("loss.identity=-1", "loss.identity is -1.0: give a finite number from 0"),
        ("loss.colour=nan", "loss.colour is nan"),
        ("learning_rate=0", "learning_rate is 0.0"),
        ("coarse_rate=0", "coarse_rate is 0.0"),
        ("average_decay=1", "average_decay is 1.0"),
        ("mixture.same=0.9", "mixture.same, .* add up to more than 1"),
        ("mixture.noised=-0.1", "mixture.noised is -0.1"),
        ("mixture.twin=0.8", "mixture.twin, .* add up to more than 1"),
        ("mixture.twin=-0.5", "mixture.twin is -0.5"),
        ("loss.texture=inf", "loss.texture is inf"),
        ("population=0", "population is 0: give a whole number from 1"),
        ("network.widest=0", "widest is 0"),
        ("mixture.epsilon=0,10", "mixture.epsilon is 0.0"),
        ("mixture.epsilon=10,5", "give the lower bound first"),
        ("network.resolution=100", "resolution is 100: choose 64, 128, 256 or 512"),
        ("discriminator.width=0", "discriminator.width is 0.0"),
        ("seed=4294967296", "seed is 4294967296"),
        ("accumulate=0", "accumulate is 0: give a whole number from 1"),
        ("accumulate=3", "batch_size is 8: make it a multiple of accumulate=3"),
        ("compute=float16", "compute is 'float16': choose one of float32, bfloat16"),
        ("pool=0", "pool is 0"),
        ("refresh=-1", "refresh is -1: give a whole number from 0 to pool"),
        ("refresh=5001", "refresh is 5001"),
        ("held_out=0", "held_out is 0"),
        ("softening=1.5", "softening is 1.5: give a number from 0 to 1"),
        (
            "freeze_statistics_at=0",
            "freeze_statistics_at is 0: give a whole number from 1, or None",
        ),
    ],
)
def test_values_that_cannot_be_used_are_named(override, message):
    with pytest.raises(UserError, match=message) as caught:
        check(tiny.training_config(override))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("styles_steps=-1",), "styles_steps is -1: give a whole number from 0"),
        (("clip=-1",), "clip is -1.0: give a finite number from 0"),
        (("styles_steps=1",), "styles_steps is 1: set it to 0, or network.fusion to prior"),
        (("loss.seam=1",), "loss.seam is 1.0: set it to 0, or network.fusion to prior"),
        (("loss.modulation=1",), "loss.modulation is 1.0: set it to 0"),
    ],
)
def test_what_a_pretrained_generator_alone_has_is_refused_without(overrides, message):
    with pytest.raises(UserError, match=message):
        check(tiny.training_config(*overrides))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("remat=True", "remat is True: .* set remat=False"),
        ("mixture.twin=0", "styles_steps is 3000: it takes .* mixture.twin above 0"),
        ("data=faces", "styles_steps is 3000: it takes data=synthetic"),
        ("refresh=1", "styles_steps is 3000: it takes .* refresh=0"),
    ],
)
def test_what_does_not_go_with_a_pretrained_generator_is_refused(override, message):
    config = ("network.coarse=64", override)
    with pytest.raises(UserError, match=message) as caught:
        check(tiny.training_config(*config, name="prior128"))
    assert "\n" not in str(caught.value)
    if not override.startswith("remat"):  # the same without that stage
        check(tiny.training_config(*config, "styles_steps=0", name="prior128"))


def _write(tmp_path, *lines):
    path = tmp_path / "mine.py"
    original = CONFIGS[0].read_text()
    path.write_text("\n".join([original.replace("return config", ""), *lines, "    return config"]))
    return path


def test_a_configuration_that_lacks_a_value_is_refused(tmp_path):
    path = _write(tmp_path, "    del config.learning_rate", "    config.lerning_rate = 1e-4")
    with pytest.raises(UserError, match="lacks learning_rate"):
        check(read_config(path))


def test_a_setting_that_no_network_has_is_refused(tmp_path):
    path = _write(tmp_path, "    config.network.widht = 0.5")
    message = r"network.widht: no such setting; did you mean network.width\?"
    with pytest.raises(UserError, match=message):
        check(read_config(path))


def test_a_setting_that_nothing_reads_is_refused(tmp_path):
    path = _write(tmp_path, "    config.acumulate = 2")
    with pytest.raises(UserError, match=r"acumulate: no such setting; did you mean accumulate\?"):
        check(read_config(path))


def test_a_number_is_no_truth(tmp_path):
    path = _write(tmp_path, "    del config.remat", "    config.remat = 1")
    with pytest.raises(UserError, match="remat is 1: give True or False"):
        check(read_config(path))


def test_files_that_are_no_configuration_are_refused(tmp_path):
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "text.txt").write_text("")
    for name, message in (
        ("none.py", "no such configuration"),
        ("empty.py", "defines no get_config"),
        ("text.txt", "not a Python file"),
        ("", "no such configuration"),
    ):
        with pytest.raises(UserError, match=message):
            read_config(tmp_path / name)
