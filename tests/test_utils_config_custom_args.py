"""The --custom_args of a command line: settings by path, and the names they give a run."""

import re

import pytest

from utils.config import custom_tag, load_config, parse_custom_args
from utils.errors import ConfigError, UsageError

CE = "configs/clotho/train-vggish-vggsound.json"
TABLE = "data_loader.args.feat_aggregation"

CUSTOM = [
    ("experts.modalities@audio,", ["audio"]),
    ("experts.drop_feats@a,b", ["a", "b"]),
    ("trainer.epochs=5", 5),
    ("trainer.tensorboard@0", False),
    ("loss.args.margin@0.5", 0.5),
    ("optimizer.args.betas@0.9,0.99", [0.9, 0.99]),
    ("arch.args.use_ce@", ""),
    ("trainer.early_stop@null", None),
    ("trainer.start_from@5", "5"),
    ("arch.args.mimic_ce_dims@true", True),
    ("trainer.save_every_minutes@1", 1.0),
    (f"{TABLE}.imagenet_.senet154_.0.flaky@False", False),
    ("arch.args.l2renorm@0", False),
    ("metrics@v2t_metrics,t2v_metrics", ["v2t_metrics", "t2v_metrics"]),
]


def test_custom_args_take_the_type_of_their_key():
    expected = {re.split("[@=]", text)[0]: value for text, value in CUSTOM}
    for joined in ("@", "="):
        text = "+".join(text.replace("@", joined).replace("=", joined) for text, _ in CUSTOM)
        assert parse_custom_args(text) == expected
    assert parse_custom_args("") == {}


@pytest.mark.parametrize(
    "text",
    [
        *("trainer.epocks@3", "trainer@3", "trainer.epochs", "trainer.epochs@3@4", "@3"),
        *("trainer.epochs@3+", "trainer.epochs@3+trainer.epochs@4", "inherit_from@x", "name@x"),
        *("arch.args.vlad_clusters@3", "eval_settings.data_loader@3", "loss.args@3"),
    ],
)
def test_custom_args_of_another_form_are_usage_errors(text):
    with pytest.raises(UsageError, match="--custom_args"):
        parse_custom_args(text)
    with pytest.raises(UsageError):
        load_config(CE, custom_args=text)


@pytest.mark.parametrize(
    "text", ["trainer.epochs@many", "trainer.tensorboard@yes", "loss.args.margin@nan"]
)
def test_custom_args_of_another_type_are_reported_by_the_check(text):
    with pytest.raises(ConfigError, match=r"--custom_args: .*: found .*, expected"):
        load_config(CE, custom_args=text)


def test_custom_args_name_the_run_as_published():
    published = (
        "experts.ce_shared_dim@24+arch.args.vlad_clusters.text@2+arch.args.vlad_clusters.audio@2+"
        "arch.args.vlad_clusters.vggsound@1+trainer.epochs@6+trainer.save_period@1+"
        "data_loader.args.batch_size@8"
    )
    config = load_config("configs/audiocaps/train-vggish-vggsound.json", custom_args=published)
    assert config.name == (
        "audiocaps-train-vggish-vggsound-experts-ce_shared_dim-24-vlad_clusters-text-2-"
        "vlad_clusters-audio-2-vlad_clusters-vggsound-1-trainer-epochs-6-trainer-save_period-1-"
        "args-batch_size-8"
    )
    assert (config.arch.args["ce_shared_dim"], config.data.batch_size) == (24, 8)
    tagged = load_config(CE, {"trainer.epochs": 1}, tag="-train-single-epoch")
    assert tagged.name == "clotho-train-vggish-vggsound-train-single-epoch"


def test_overrides_come_over_custom_args():
    config = load_config(CE, {"trainer.epochs": 1}, custom_args="trainer.epochs@5+seed@2")
    assert (config.trainer.epochs, config.seed) == (1, 2)
    assert config.name == "clotho-train-vggish-vggsound-trainer-epochs-5-seed-2"


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("", ""),
        ("seed@3", "-seed-3"),
        ("experts.modalities@audio,", "-experts-modalities-audio--"),
        ("experts.modalities@a,b", "-experts-modalities-a--b"),
        ("a.feat_aggregation.r2p1d_.x_.0.flaky@1", "-r2p1d--x--0-flaky-1"),
        ("data_loader.args.data_dir@../x y;z", "-args-data_dir---x-y-z"),
        ("loss.args.margin@0.2", "-args-margin-0.2"),
    ],
)
def test_tags_have_only_what_fits_a_folder(text, tag):
    assert custom_tag(text) == tag
