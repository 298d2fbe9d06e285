"""Published configurations of MMT, put into the form of all others."""

import copy
import json

import pytest

from golden_mmt import DATA
from utils.config import load_config
from utils.config.published_mmt import from_published_mmt, is_published_mmt
from utils.errors import ConfigError

PUBLISHED = json.loads((DATA / "published_ckpt_clotho_mmt" / "config.json").read_text())


def test_what_a_published_configuration_means():
    assert is_published_mmt(PUBLISHED)
    ours = from_published_mmt(PUBLISHED, "config.json")
    args = ours["data_loader"]["args"]
    assert args["dataset_name"] == "CLOTHO"
    assert args["data_dir"] == "data/CLOTHO"
    assert args["max_tokens"] == {"text": 21, "audio": 95, "vggsound": 95}
    assert (args["query_shuffling"], args["captions_per_video"]) == ("cat", 1)
    assert (args["split_name"], args["batch_size"]) == ("val", 4)
    assert ours["eval_settings"]["data_loader"]["args"]["split_name"] == "test"
    assert ours["experts"]["modalities"] == ["audio", "vggsound"]
    assert ours["arch"] == {"type": "MMT", "args": PUBLISHED["arch"]["args"]}
    assert ours["optimizer"] == PUBLISHED["optimizer"]
    assert ours["trainer"]["monitor"] == "off"
    assert ours["trainer"]["epochs"] == 3
    assert not is_published_mmt(ours)


def change(*path, value=None):
    raw = copy.deepcopy(PUBLISHED)
    target = raw
    for key in path[:-1]:
        target = target[key]
    if value is None:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return raw


MIX = ("final_eval_sets", 0, "args", "mix")


@pytest.mark.parametrize(
    "raw",
    [
        change(*MIX, value=[]),
        change(*MIX, 0, "dataset_name"),
        change(*MIX, 0, "data_dir", value="./data/CLOTHO"),
        change(*MIX, 0, "temporal_encoding_window", value=2),
        change("experts", "modalities", value=3),
        change("arch", "args"),
        change("trainer", value="none"),
        change("train_sets", value=[1]),
    ],
)
def test_an_unfinished_one_is_refused_by_name(raw):
    with pytest.raises(ConfigError, match=r"config\.json"):
        from_published_mmt(raw, "config.json")


def test_another_class_starts_without_the_arguments_of_the_one_below(tmp_path):
    """MMT over a file of CE, InfoNCE over the ranking loss; an equal class keeps them."""
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps(
            {
                "inherit_from": "configs/soundscenes/train-mmt.json",
                "arch": {"type": "MMT", "args": {"same_dim": 256}},
            }
        )
    )
    config = load_config(path)
    assert config.arch.args["vid_bert_params"].hidden_size == 256
    assert "use_ce" not in config.arch.args
    assert config.loss.args["temperature"] == 0.07
    assert "margin" not in config.loss.args
