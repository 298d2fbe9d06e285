"""The audit finds every planted fault, and nothing in a clean data set."""

import json

import numpy as np
import pytest

from misc import audit_dataset
from results.audit import CHECKS, audit, reachable
from results.material import gather
from synthetic import write_dataset, write_features, write_list
from utils.config import load_config
from utils.reading.hickle import write_hickle
from utils.reading.pickles import dump_plain

SIZES = {"train": 30, "val": 8, "test": 10}
CAPTIONS = {"train": 2, "val": 2, "test": 2}


class Data:
    """A data set as written, to be changed and written again."""

    def __init__(self, folder):
        self.folder = folder
        self.made = write_dataset(
            folder / "CLOTHO", "CLOTHO", sizes=SIZES, captions_per_clip=CAPTIONS, widths={}, seed=1
        )
        self.clips = self.made.clips
        self.captions = {
            clip: [
                [f"{clip}", "number", f"{k}", *(f"{clip}w{k}{w}" for w in range(3))]
                for k in range(2)
            ]
            for clip in self.made.captions
        }
        draw = np.random.default_rng(0)
        self.text = {
            clip: [draw.normal(size=(len(words), 300)).astype(np.float32) for words in each]
            for clip, each in self.captions.items()
        }
        self.experts = {name: dict(values) for name, values in self.made.experts.items()}
        self.config_changes = {}

    def config(self):
        for split, clips in self.clips.items():
            write_list(self.made.files[f"{split} list"], clips)
        for name, values in self.experts.items():
            write_hickle(self.made.files[name], values)
        dump_plain(self.captions, self.made.files["captions"])
        write_features(self.made.files["text"], self.text)
        path = self.folder / "clotho" / "audited.json"
        path.parent.mkdir(exist_ok=True)
        args = {
            "data_dir": str(self.made.data_dir),
            "packed_dir": None,
            "feat_aggregation": {"audio": {"flaky": False}, "vggsound": {"flaky": False}},
        } | self.config_changes
        base = "configs/clotho/train-vggish-vggsound.json"
        path.write_text(json.dumps({"inherit_from": base, "data_loader": {"args": args}}))
        return path

    def findings(self):
        return audit(gather(load_config(self.config()))).findings


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


def clip_in_two_splits(data):
    data.clips["test"][0] = data.clips["train"][0]


def features_copied(data):
    for values in data.experts.values():
        values[data.clips["test"][1]] = values[data.clips["train"][1]]


def features_copied_with_noise(data):
    draw = np.random.default_rng(5)
    for values in data.experts.values():
        kept = values[data.clips["train"][1]]
        noise = 1e-3 * draw.normal(size=kept.shape)
        values[data.clips["test"][1]] = (kept + noise).astype(np.float32)


def twins_within_a_split(data):
    for values in data.experts.values():
        values[data.clips["test"][1]] = values[data.clips["test"][2]]


def caption_copied(data):
    words = [word.upper() for word in data.captions[data.clips["train"][3]][0]]
    data.captions[data.clips["test"][3]][0] = words


def caption_nearly_copied(data):
    words = data.captions[data.clips["val"][3]][0]
    data.captions[data.clips["test"][3]][0] = [*words[1:], words[0], "oh"]


def two_clips_of_one_caption(data):
    data.captions[data.clips["test"][4]][0] = data.captions[data.clips["test"][5]][1]


def empty_caption(data):
    clip = data.clips["test"][6]
    data.captions[clip][1] = [","]


def caption_without_vectors(data):
    clip = data.clips["test"][6]
    data.text[clip][1] = np.zeros((0, 300), np.float32)


def clip_without_captions(data):
    clip = data.clips["train"][6]
    del data.captions[clip]
    del data.text[clip]


def caption_missing(data):
    data.text[data.clips["train"][7]].pop()


def captions_cut(data):
    for clip in data.clips["test"]:
        data.captions[clip][0] = [f"{clip}long{word}" for word in range(40)]
        data.text[clip][0] = np.ones((40, 300), np.float32)


def tokens_cut(data):
    data.config_changes = {"max_tokens": {"audio": 2}}


def expert_missing(data):
    del data.experts["audio"][data.clips["test"][2]]


def expert_missing_unevenly(data):
    data.config_changes = {"feat_aggregation": {"audio": {"flaky": True}}}
    for clip in data.clips["test"][:4]:
        del data.experts["audio"][clip]


def constant_features(data):
    values = data.experts["audio"]
    values[data.clips["val"][2]] = np.full_like(values[data.clips["val"][2]], 0.5)


def one_token_repeated(data):
    values = data.experts["audio"]
    values[data.clips["val"][2]] = np.tile(values[data.clips["val"][2]][:1], (4, 1))


def nan_features(data):
    values = data.experts["vggsound"][data.clips["train"][2]].copy()
    values[0, 3] = np.nan
    data.experts["vggsound"][data.clips["train"][2]] = values


def unused_clip(data):
    data.clips["train"].pop()


PLANTED = {
    clip_in_two_splits: {"shared-clips", "same-captions", "unused"},
    features_copied: {"same-features"},
    features_copied_with_noise: {"near-features"},
    twins_within_a_split: {"twin-clips"},
    caption_copied: {"same-captions"},
    caption_nearly_copied: {"near-captions"},
    two_clips_of_one_caption: {"ambiguous"},
    empty_caption: {"empty-captions"},
    caption_without_vectors: {"empty-captions"},
    clip_without_captions: {"captionless", "unmatched"},
    caption_missing: {"unmatched"},
    captions_cut: {"cut-captions"},
    tokens_cut: {"cut-features"},
    expert_missing: {"missing-experts"},
    expert_missing_unevenly: {"missing-experts"},
    constant_features: {"flat-features"},
    one_token_repeated: {"flat-features"},
    nan_features: {"unreadable"},
    unused_clip: {"unused"},
}


def test_a_clean_data_set_has_no_finding(data, capsys):
    assert data.findings() == ()
    assert audit_dataset.main(["--config", str(data.config())]) == 0
    printed = capsys.readouterr().out
    assert printed.count("  clean  ") == len(CHECKS)
    assert printed.count("sha256 of the list") == 3
    assert "R@1 can reach 100.0 at most" in printed


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found_and_nothing_else(data, plant):
    plant(data)
    assert {finding.check for finding in data.findings()} == PLANTED[plant]


def test_every_check_has_a_planted_fault():
    assert set().union(*PLANTED.values()) == set(CHECKS)


def test_the_exit_status_is_for_scripts(data, capsys):
    unused_clip(data)
    config = str(data.config())
    assert audit_dataset.main(["--config", config]) == 1
    assert audit_dataset.main(["--config", config, "--accept", "unused"]) == 0
    assert audit_dataset.main(["--config", config + "x"]) == 2
    capsys.readouterr()
    assert audit_dataset.main(["--config", config, "--format", "json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["findings"][0]["check"] == "unused"
    assert set(content["checks"]) == set(CHECKS)


def test_missing_files_are_findings(data):
    config = load_config(data.config())
    data.made.files["audio"].unlink()
    data.made.files["val list"].unlink()
    found = audit(gather(config)).findings
    assert [finding.check for finding in found].count("unreadable") == 2


@pytest.mark.parametrize(
    ("captions", "asked", "ceiling"),
    [
        ([["a", "b"], ["c", "d"]], 2, 100.0),
        ([["a", "b"], ["a", "d"]], 2, 75.0),
        ([["a", "a"], ["A.", "a"], ["a", "b"]], 2, 50.0),
        ([["a", "a"], ["a", "c"]], 2, 75.0),
        ([["a", "b"], ["b", "a"]], 2, 50.0),
        ([["a", "b"], ["b", "a"]], 1, 100.0),  # of the captions that are asked
    ],
)
def test_the_reachable_ceiling_worked_by_hand(data, captions, asked, ceiling):
    data.clips["test"] = data.clips["test"][: len(captions)]
    for clip, each in zip(data.clips["test"], captions, strict=True):
        data.captions[clip] = [[text] for text in each]
    material = gather(load_config(data.config()))
    assert reachable(material.test, asked) == pytest.approx(ceiling)


def test_the_clip_at_fault_is_named(data):
    constant_features(data)
    (finding,) = data.findings()
    assert finding.examples == (data.clips["val"][2],)


def test_twins_are_never_first(data):
    twins_within_a_split(data)
    material = gather(load_config(data.config()))
    assert reachable(material.test, 2) == pytest.approx(80.0)
