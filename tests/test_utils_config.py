"""utils/config: strict, with every mistake at once, its file and its key."""

import copy
import json
import os
import random
import re
import time
from pathlib import Path

import pytest

from utils.config import config_from_dict, load_config
from utils.config.documentation import DOCUMENT, MARK, render_tables
from utils.config.files import ROOT
from utils.config.released import EXPERTS_WITHOUT_FEATURES, WITHOUT_EFFECT
from utils.errors import ConfigError
from utils.kinds import EMPTY

CE = "configs/clotho/train-vggish-vggsound.json"
RELEASED = Path(__file__).parent / "data" / "released_audiocaps_ce_config.json"
DATA = "data_loader.args"
TABLE = f"{DATA}.feat_aggregation"
MINE = f"{TABLE}.mine"


@pytest.fixture
def write(tmp_path):
    """Write a file of this content; a dict inherits from CE unless it says otherwise."""

    def writer(content, name="mine.json"):
        path = tmp_path / name
        if isinstance(content, dict):
            content = json.dumps({"inherit_from": CE, **content})
        path.write_text(content)
        return path

    return writer


def wrong_keys(overrides, path=CE):
    """Return the keys that the error of these settings names."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    return [line.split(": ")[1] for line in lines if not re.match(r"\d+ mistakes in ", line)]


MESSAGES = [
    ("seed", "three", "found 'three', expected a whole number from 0 to 4294967295"),
    ("sed", 1, "unknown key; did you mean 'seed'? (known: "),
    ("trainer.batch_size", 3, f"unknown key; did you mean '{DATA}.batch_size'? (known: "),
    ("trainer.tensorboard", 2, "found 2, expected true or false"),
    ("trainer.epochs", None, "found None, expected a whole number from 1 up"),
    ("trainer.early_stop", "no", "found 'no', expected a whole number from 0 up, or null"),
    ("trainer.monitor", "min val_t2v_metrics_R2", "did you mean 'val_t2v_metrics_R5'?"),
    ("loss.args.margin", 0, "found 0, expected a number greater than 0"),
    ("loss.args.margn", 1, "unknown key; did you mean 'margin'? (known: fix_norm, margin)"),
    ("loss.type", "MaxMarginLoss", 'expected "MaxMarginRankingLoss"'),
    ("optimizer.args.betas", [0.9], "expected a list of two numbers from 0 to below 1"),
    ("optimizer.args.amsgrad", True, "unknown key (known: N_sma_threshhold, alpha, "),
    ("arch.args.use_ce", "triplet", 'found \'triplet\', expected "pairwise" or ""'),
    ("arch.args.kron_dets", True, "expected false, zero or empty: it is not supported"),
    ("arch.args.vlad_clusters.vgsound", 3, "no expert of this name; did you mean 'vggsound'?"),
    ("trainer", 3, "found 3, expected a section with keys"),
    ("experts.modalities", ["audio", "vgsound"], "unknown expert 'vgsound'; did you mean 'vggsou"),
    (f"{DATA}.dataset_name", "Cloth", "unknown data set 'Cloth'; did you mean 'CLOTHO'?"),
    (f"{DATA}.split_name", "tests", "expected train or val or test; did you mean 'test'"),
]


@pytest.mark.parametrize(("key", "value", "message"), MESSAGES, ids=str)
def test_messages(key, value, message):
    with pytest.raises(ConfigError) as caught:
        load_config(CE, {key: value})
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert any(line.startswith(f"overrides: {key}: ") and message in line for line in lines)


# -- reading and merging ---------------------------------------------------------------------


def test_sections_merge_and_everything_else_replaces(write):
    own = {"experts": {"modalities": ["vggsound", "pann"]}}
    config = load_config(write({**own, "arch": {"args": {"vlad_clusters": {"pann": 3}}}}))
    assert [expert.name for expert in config.experts] == ["pann", "vggsound"]
    assert [config.arch.args["vlad_clusters"][name] for name in ("pann", "vggsound")] == [3, 16]
    assert config.text.feature == "w2v"


def test_later_files_of_the_list_come_over_earlier_ones_and_the_file_over_all(write, tmp_path):
    write({"inherit_from": "", "trainer": {"epochs": 3, "val_freq": 2}}, "first.json")
    write({"inherit_from": "", "trainer": {"epochs": 4}}, "second.json")
    parents = f"{CE}, {tmp_path / 'first.json'},{tmp_path / 'second.json'}"
    config = load_config(write({"inherit_from": parents, "seed": 9}))
    assert (config.trainer.epochs, config.trainer.val_freq, config.seed) == (4, 2, 9)
    config = load_config(write({"inherit_from": parents, "trainer": {"epochs": 5}}))
    assert config.trainer.epochs == 5


def test_the_working_directory_decides_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_config(CE) == load_config(ROOT / CE)


def test_yaml_is_read_alike(write):
    text = f"""inherit_from: {CE}
experts: {{modalities: [audio]}}
arch: {{args: {{use_ce: '', mimic_ce_dims: true}}}}
optimizer: {{args: {{lr: 1e-3}}}}
trainer:\n  monitor: off\n  start_from: null
"""
    config = load_config(write(text, "mine.yaml"))
    assert config.arch.args["mimic_ce_dims"] is True
    assert config.optimizer.args["lr"] == 0.001
    assert config.trainer.monitor_mode == "off"


STRANGE_YAML = [
    "a: 1\na: 2\n", "trainer: {epochs: 1, epochs: 2}\n", "1: 2\n", "a: &x [1]\nb: *x\n", "a: [1\n",
    "a: !!python/object/apply:os.system ['true']\n", "- 1\n", "!!map [1, 2]\n", "[" * 5000,
    "a: b\n---\nc: d\n", "a: " + "x" * (1 << 20), "a: \x00\n",
]  # fmt: skip
STRANGE_JSON = [
    '{"seed": 1, "seed": 2}', '{"trainer": {"epochs": NaN}}', '{"trainer": {"epochs": Infinity}}',
    "[1]", '{"a": ', "", "[" * 5000, '{"seed": ' + "1" * 5000 + "}", '{"name": "\\ud800"}',
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [("mine.yml", text) for text in STRANGE_YAML] + [("mine.json", text) for text in STRANGE_JSON],
)
def test_strange_files_are_refused_by_name(write, name, text):
    with pytest.raises(ConfigError, match=re.escape(name)):
        load_config(write(text, name))


@pytest.mark.parametrize("name", ["configs/clotho/train-vgish-vggsound.json", "x" * 5000])
def test_an_absent_file_is_named_with_the_nearest_known(name):
    with pytest.raises(ConfigError, match=name) as caught:
        load_config(name)
    assert ("did you mean" in str(caught.value)) == name.startswith("configs")


def test_loops_are_shown_with_their_files(write, tmp_path):
    write({"inherit_from": str(tmp_path / "b.json")}, "a.json")
    write({"inherit_from": str(tmp_path / "a.json")}, "b.json")
    with pytest.raises(ConfigError, match=r"back to itself: .*a\.json -> .*b\.json -> .*a\.json"):
        load_config(tmp_path / "a.json")


def test_an_inherited_mistake_names_both_files(write):
    parent = write({"inherit_from": "", "seed": "three"}, "parent.json")
    child = write({"inherit_from": f"{CE},{parent}"})
    with pytest.raises(ConfigError) as caught:
        load_config(child)
    assert str(caught.value).startswith(f"{parent}: seed: ")
    assert str(caught.value).endswith(f" (inherited by {child})")


def test_a_tree_of_parents_that_doubles_at_each_level_ends(write, tmp_path):
    write({"inherit_from": "", "seed": 3}, "0.json")
    for level in range(1, 30):
        parent = tmp_path / f"{level - 1}.json"
        write({"inherit_from": f"{parent},{parent}"}, f"{level}.json")
    assert load_config(write({"inherit_from": f"{CE},{tmp_path / '2.json'}"})).seed == 3
    with pytest.raises(ConfigError, match="more than 100 files"):
        load_config(tmp_path / "29.json")


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x.json", "configs/../../x.json", f"{CE},", ",", "a\0b", "configs/bas.json",
     "{folder}/loop", "{folder}/inner/link.json", "x" * 5000, ["configs/base.json"]],
)  # fmt: skip
def test_parents_that_are_absent_or_outside_the_repository_are_refused(write, tmp_path, name):
    """Loops of links, and links that lead outside, too."""
    (tmp_path / "loop").symlink_to(tmp_path / "pool")
    (tmp_path / "pool").symlink_to(tmp_path / "loop")
    (tmp_path / "inner").mkdir()
    write({"seed": 1}, "outside.json")
    (tmp_path / "inner" / "link.json").symlink_to(tmp_path / "outside.json")
    named = name.format(folder=tmp_path) if isinstance(name, str) else name
    path = write({"inherit_from": named}, "inner/mine.json")
    with pytest.raises(ConfigError, match=f"{re.escape(str(path))}: inherit_from: "):
        load_config(path)


# -- released files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tokens", "flaky"), [("audiocaps", [29, 29], True), ("clotho", [31, 95], False)]
)
def test_released_files_load(name, tokens, flaky, caplog):
    path = RELEASED.parent / f"released_{name}_ce_config.json"
    config = load_config(path)
    assert [record.message.count("inherit_from names") for record in caplog.records] == [1]
    assert f"configs/data_loader_{name}.json" in caplog.text
    args = config.arch.args
    assert (args["use_ce"], args["ce_shared_dim"], args["use_mish"]) == ("pairwise", 24, True)
    assert [expert.name for expert in config.experts] == ["audio", "vggsound"]
    assert [expert.max_tokens for expert in config.experts] == tokens
    assert [args["vlad_clusters"][name] for name in ("text", "audio", "vggsound")] == [2, 2, 1]
    assert [expert.flaky for expert in config.experts] == [flaky, False]
    test = config.for_evaluation()
    assert (test.data.split_name, test.data.num_test_captions) == ("test", 5)
    assert (config.data.split_name, config.data.num_test_captions) == ("val", 1)


def test_a_released_dict_loads_like_its_file():
    raw = json.loads(RELEASED.read_text())
    before = copy.deepcopy(raw)
    assert config_from_dict(raw, RELEASED) == load_config(RELEASED)
    assert raw == before


def test_a_dict_of_a_checkpoint_may_hold_anything():
    raw = json.loads(RELEASED.read_text())
    deep: dict = {}
    for _ in range(500):
        deep = {"a": deep}
    for strange, fault in (
        ({1: 2}, "the key 1 is not text"),
        ({"trainer": deep}, "nested too deeply"),
        ({"seed": 10**5000}, "found an integer of"),
        ({"seed": object()}, "seed: found <object"),
        ({"experts": {**raw["experts"], "modalities": [["audio"]]}}, "modalities: found"),
        ({"name": ["x"]}, "name: found"),
        ({"trainer": 3}, "trainer: found 3, expected a section"),
    ):
        with pytest.raises(ConfigError, match=fault):
            config_from_dict({**raw, **strange}, "model.pth")


def test_damage_anywhere_ends_in_a_configuration_or_in_our_error():
    draw = random.Random(0)
    strange = [None, True, 0, -1, 3.5, "", "x", "a.b", [], ["x"], [[]], {}, {"x": {}}, 2**70]
    outcomes = {"loaded": 0, "refused": 0}
    for _ in range(400):
        raw = json.loads(RELEASED.read_text())
        for _ in range(draw.randint(1, 3)):
            section = raw
            while True:
                key = draw.choice(sorted(section))
                if not isinstance(section[key], dict) or not section[key] or draw.random() < 0.2:
                    break
                section = section[key]
            if draw.random() < 0.3:
                del section[key]
            else:
                section[key] = draw.choice(strange)
        try:
            config_from_dict(raw, "x.json", data_dir=draw.choice([None, "d"]))
            outcomes["loaded"] += 1
        except ConfigError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20


@pytest.mark.parametrize(
    "key",
    [key for key, kind in WITHOUT_EFFECT.items() if kind is EMPTY and "<name>" not in key]
    + [f"{TABLE}.audio.binarise"],
)
def test_keys_of_older_releases_are_accepted_while_empty(key):
    for empty in (False, "", None):
        load_config(CE, {key: empty})
    for asking in (True, "yes", [1]):
        assert wrong_keys({key: asking}) == [key]


def test_published_values_without_effect_are_accepted():
    switches = "disable_gpu disable_nan_checks experts.use_zeros_for_missing"
    settings = {
        **dict.fromkeys([*switches.split(), "eval_settings.disable_gpu"], True),
        **{"n_gpu": 1, "task": "retrieval", "log_name": "info.json", "eval_mode": "test_run"},
        **{f"arch.args.vlad_clusters.{name}": 1 for name in EXPERTS_WITHOUT_FEATURES},
        f"{DATA}.max_tokens.audiocaps": 1,
        "visualizer": {"type": "Visualizer", "args": {"num_samples": 5}},
        "metrics": ["v2t_metrics", "t2v_metrics"],
    }
    load_config(CE, settings)


# -- mistakes --------------------------------------------------------------------------------


def test_all_mistakes_are_reported_at_once_with_their_file(write):
    wrong = {"loss": {"args": {"margn": 0.3}}, "trainer": {"epochs": "many"}}
    parent = write({"inherit_from": "", **wrong}, "parent.json")
    path = write(
        {
            "inherit_from": f"{CE},{parent}",
            "sed": 1,
            "data_loader": {"args": {"batch_size": True}},
            "experts": {"modalities": ["audio", "vgsound"]},
        }
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    first, *lines = str(caught.value).splitlines()
    assert first == f"5 mistakes in {path}"
    assert {tuple(line.strip().split(": ")[:2]) for line in lines} == {
        *((str(parent), key) for key in ("loss.args.margn", "trainer.epochs")),
        *((str(path), key) for key in (f"{DATA}.batch_size", "experts.modalities", "sed")),
    }


@pytest.mark.parametrize(
    "table", ["", "loss", "eval_settings", TABLE, f"{DATA}.max_tokens", "arch.args.vlad_clusters"]
)
def test_of_thousands_of_mistakes_the_first_are_listed(table):
    """Each was compared with all others, and its line repeated all that is known."""
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_config(CE, {f"{table}.unknown{n}".lstrip("."): {} for n in range(10_000)})
    assert time.monotonic() - began < 10
    first, *lines, last = str(caught.value).splitlines()
    count = int(re.match(r"(\d+) mistakes in ", first)[1])
    assert count >= 10_000
    assert len(lines) == 50
    assert last == f"  and {count - 50} more"


def test_arguments_of_the_class_inherited_are_left_behind_by_another():
    config = load_config(CE, {"optimizer.args": {"k": 4}}, custom_args="optimizer.type@Ranger")
    assert config.optimizer.args["k"] == 4
    config = load_config(CE, {"optimizer.type": "Adam"}, custom_args="optimizer.args.k@4")
    assert (config.optimizer.type, config.optimizer.args["lr"]) == ("Adam", 0.01)
    assert config.raw["optimizer"]["args"] == {"lr": 0.01, "weight_decay": 0.001}
    for order in (1, -1):
        together = [("optimizer.type", "Adam"), ("optimizer.args.k", 4)][::order]
        assert wrong_keys(dict(together)) == ["optimizer.args.k"]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("trainer.epochs", [0, -1, 1.0, True, "3", None, [3]]),
        ("trainer.tensorboard", [2, -1, "true", 1.0, None]),
        ("trainer.verbosity", [3, -1]),
        ("trainer.save_every_minutes", [-1, float("nan"), float("inf"), True, "1"]),
        ("trainer.monitor", ["max val_loss", "min", "", "larger val_t2v_metrics_R1", True, None]),
        ("trainer.embed_at_once", [3, 0, "8", 8.0]),
        ("trainer.ema", [1, -0.1, None]),
        ("trainer.precision", ["fp16", "", 32]),
        ("trainer.start_from", ["", 3]),
        (f"{DATA}.batch_size", [1, 0, -4, 8.0]),
        (f"{DATA}.text_dropout", [-0.1, 1.1, "0"]),
        (f"{DATA}.expert_dropout", [-0.1, 1.1, None]),
        (f"{DATA}.mix_up", [-0.1, 1.1, None]),
        (f"{DATA}.feature_noise", [-0.1, float("inf")]),
        (f"{DATA}.root_feat_folder", ["/x", "../x", ""]),
        (f"{DATA}.max_tokens.audio", [0, -1, "29"]),
        (f"{DATA}.layout", ["Clotho", 3]),
        (f"{TABLE}.audio.temporal", ["vald", "avg-avg", "", None]),
        (f"{TABLE}.audio.file", ["/x.pkl", "../x.pkl", "x.npy"]),
        (f"{TABLE}.face.aggregate-axis", [0, 2]),
        (f"{TABLE}.mine", [1, {}]),
        ("arch.args.vlad_clusters.audio", [0, -3, "3"]),
        ("arch.args.vlad_clusters", [3, [], None]),
        ("arch.args.pooling.audio", ["mean", "", None, 3]),
        ("arch.args.use_ce", ["pairwis", 1, True]),
        ("experts.modalities", [[], "audio", ["audio", "audio"], ["audio", 3], [""]]),
        ("optimizer.args.lr", [0, -0.1, "0.01", float("nan"), 1e38]),
        ("optimizer.args.betas", [[0.9], [0.9, 1.0], 0.9, [True, 0.9]]),
        ("optimizer.type", ["Rangr", None]),
        ("lr_scheduler.args.gamma", [0, 1.5]),
        ("metrics", [["t2v_metrics"], []]),
        ("seed", [-1, 2**32, 0.0]),
        ("caption_masks", ["masks.npy"]),
        ("text_embedding_model_configs", ["model/absent.json", "/etc/hostname"]),
        ("eval_settings.data_loder", [{}]),
        (f"eval_settings.{DATA}.split", [1]),
        (f"eval_settings.{DATA}.num_test_captions", [0, "5"]),
        ("eval_settings.tester.verbosity", ["2"]),
        ("name", ["a/b", "..", "a\nb", 3]),
    ],
)
def test_wrong_values_are_refused(key, values):
    for value in values:
        assert any(wrong.startswith(key) for wrong in wrong_keys({key: value})), value


ONE = {"experts.modalities": ["audio"], "arch.args": {"use_ce": "", "mimic_ce_dims": True}}
NOT_TOGETHER = [
    ("arch.args.mimic_ce_dims", {"arch.args.mimic_ce_dims": True}),
    ("arch.args.mimic_ce_dims", {"arch.args": {"use_ce": "", "mimic_ce_dims": 1}}),
    ("arch.args.use_ce", {"experts.modalities": ["audio"]}),
    ("arch.args.use_ce", {"experts.drop_feats": "audio"}),
    ("experts.drop_feats", {"experts.drop_feats": "audio,vggsound"}),
    ("experts.drop_feats", {"experts.drop_feats": "adio"}),
    ("experts.text_feat", {"experts.text_feat": "w2w"}),
    ("arch.args.vlad_clusters.text", {"arch.args.vlad_clusters.text": 0}),
    ("arch.args.vlad_clusters.pann", {"arch.args.vlad_clusters": {"pann": 0}, **{
        "experts.modalities": ["audio", "pann"], f"{DATA}.max_tokens.pann": 3}}),
    ("arch.args.pooling.adio", {"arch.args.pooling.adio": "attention"}),
    ("arch.args.vlad_clusters.text",
     {"arch.args": {"pooling": {"text": "vlad"}, "vlad_clusters": {"text": 0}}}),
    (f"{DATA}.max_tokens.adio", {f"{DATA}.max_tokens.adio": 3}),
    (f"{DATA}.text_dropout", {f"{DATA}.text_dropout": 0.5, f"{DATA}.fuse_captions": True}),
    (f"eval_settings.{DATA}.text_dropout",
     {f"eval_settings.{DATA}": {"fuse_captions": True, "text_dropout": 0.5}}),
    (f"{DATA}.expert_dropout", {**ONE, f"{DATA}.expert_dropout": 0.5}),
    ("trainer.embed_at_once", {"trainer.compile": True, "trainer.embed_at_once": 8}),
    ("trainer.save_period", {"trainer.epochs": 3, "trainer.save_period": 4}),
    (f"{TABLE}.vgsound.temporal", {f"{TABLE}.vgsound.flaky": True}),
    (f"{TABLE}.audio", {f"{TABLE}.audio.temporal": "avg"}),
    (f"{TABLE}.face", {"experts.modalities": ["audio", "face"]}),
    *((MINE, {"experts.modalities": ["mine", "audio"], MINE: entry}) for entry in (
        {"temporal": "vlad", "file": "f.pkl"},
        {"temporal": "vlad", "width": 7},
        {"temporal": "avg-max", "file": "f.pkl", "width": 7},
    )),
]  # fmt: skip


@pytest.mark.parametrize(("key", "overrides"), NOT_TOGETHER)
def test_combinations_that_cannot_work_are_refused(key, overrides):
    assert wrong_keys(overrides) == [key]


def test_every_missing_key_is_named(write):
    content = {"experts": {"modalities": ["audio"]}, "loss": {"type": "MaxMarginRankingLoss"}}
    assert set(wrong_keys({}, write({"inherit_from": "", **content}))) == {
        "arch.type", f"{DATA}.data_dir", f"{DATA}.batch_size", f"{DATA}.dataset_name",
        f"{DATA}.max_tokens.text", "experts.modalities", "experts.text_feat", "optimizer.type",
        "trainer.epochs",
    }  # fmt: skip


@pytest.mark.parametrize("key", ["max_tokens", "vlad_clusters"])
def test_an_expert_of_tokens_needs_tokens_and_clusters(key):
    raw = load_config(CE).raw
    section = raw["data_loader"]["args"] if key == "max_tokens" else raw["arch"]["args"]
    del section[key]["audio"]
    with pytest.raises(ConfigError, match=rf"{key}\.audio: missing"):
        config_from_dict(raw, "x.json")


def test_whole_numbers_are_fine_for_real_ones_and_0_and_1_for_switches():
    args = load_config(CE, {"loss.args.margin": 1, "loss.args.fix_norm": 0}).loss.args
    assert args == {"margin": 1.0, "fix_norm": False}
    assert [type(value) for value in args.values()] == [float, bool]


# -- data of one's own --------------------------------------------------------------------------


def test_a_data_set_of_ones_own_names_its_layout(write):
    args = {"dataset_name": "Mine", "layout": "CLOTHO", "data_dir": "data/mine"}
    config = load_config(write({"data_loader": {"args": args}}))
    assert (config.data.dataset_name, config.data.layout) == ("Mine", "CLOTHO")
    assert config.dataset_folder == "mine"


def test_a_text_feature_of_ones_own_is_one_line(tmp_path):
    table = tmp_path / "table.json"
    raw = {**load_config(CE).raw, "text_embedding_model_configs": str(table)}
    raw["experts"]["text_feat"] = "mine"
    table.write_text('{"mine": {"dim": 12}}')
    assert config_from_dict(raw, tmp_path / "mine.json").text.width == 12
    for damaged in ({"mine": {"dim": "12"}}, {"mine": 12}, {"mine": {"dim": 1, "d": 2}}):
        table.write_text(json.dumps(damaged))
        with pytest.raises(ConfigError, match=r"table\.json: mine"):
            config_from_dict(raw, tmp_path / "mine.json")


# -- settings from elsewhere -----------------------------------------------------------------


def test_overrides_leave_the_name_alone_and_reach_keys_with_dots():
    flaky = f"{TABLE}.imagenet_.senet154_.0.flaky"
    place = Path("data") / "elsewhere"
    config = load_config(CE, {flaky: True, f"{DATA}.data_dir": place, "lr_scheduler": None})
    assert config.name == "clotho-train-vggish-vggsound"
    table = config.raw["data_loader"]["args"]["feat_aggregation"]
    assert table["imagenet.senet154.0"]["flaky"] is True
    assert (config.data.data_dir, config.lr_scheduler) == ("data/elsewhere", None)


def test_keys_that_cannot_be_printed_are_escaped():
    raw = {**load_config(CE).raw, "\x1b[2Jseed\ud800\n": 1}
    with pytest.raises(ConfigError) as caught:
        config_from_dict(raw, "x.json")
    assert str(caught.value).isprintable()


def test_a_very_long_name_is_cut_and_stays_distinct():
    texts = [f"training_file@{'x' * 300}{i}.txt" for i in range(2)]
    names = {load_config(CE, custom_args=text).name for text in texts}
    assert [len(name.encode()) for name in names] == [200, 200]


def test_data_dir_replaces_the_leading_data_everywhere():
    config = load_config(CE, data_dir="/disk/d")
    assert config.data.data_dir == "/disk/d/CLOTHO"
    assert config.data.packed_dir == "/disk/d/packed"
    assert config.trainer.save_dir == "/disk/d/saved"
    released = load_config(RELEASED, data_dir="elsewhere")
    assert released.data.packed_dir == "elsewhere/packed"
    assert released.for_evaluation().trainer.save_dir == "elsewhere/saved"
    assert released.raw["trainer"]["save_dir"] == "elsewhere/saved"
    places = {f"eval_settings.{DATA}.data_dir": "data/x", "trainer.start_from": "data/a.pth"}
    moved = load_config(CE, places, data_dir="y")
    assert (moved.for_evaluation().data.data_dir, moved.trainer.start_from) == ("y/x", "y/a.pth")
    kept = load_config(CE, {f"{DATA}.data_dir": "database/x"}, data_dir="y")
    assert kept.data.data_dir == "database/x"


def test_the_test_run_takes_eval_settings_over_the_rest():
    tester = {"save_dir": "x", "verbosity": None}
    changes = {f"eval_settings.{DATA}.batch_size": 7, "eval_settings.tester": tester}
    config = load_config(CE, changes)
    test = config.for_evaluation()
    assert (config.data.batch_size, test.data.batch_size) == (128, 7)
    assert (test.trainer.save_dir, test.trainer.verbosity) == ("x", 2)
    assert test.name == config.name
    assert test.for_evaluation() == test
    for none in (None, False, {}):
        plain = config_from_dict({**config.raw, "eval_settings": none}, "x.json")
        assert plain.for_evaluation() is plain


# -- what a run writes down ------------------------------------------------------------------


def test_the_name_comes_from_the_folder_below_saved_models(tmp_path):
    folder = tmp_path / "saved" / "models" / "clotho-train-x" / "abc" / "seed-1" / "2021"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(RELEASED.read_text())
    assert load_config(folder / "config.json").name == "clotho-train-x"


def test_the_name_of_a_parent_is_its_own(write, tmp_path):
    parent = write({"name": "parent"}, "parent.json")
    assert load_config(parent).name == "parent"
    child = write({"inherit_from": str(parent)}, "child.json")
    assert load_config(child).name == f"{tmp_path.name}-child"


def test_a_config_shares_nothing_with_the_next():
    first = load_config(CE)
    first.raw["trainer"]["epochs"] = 99
    assert load_config(CE).raw["trainer"]["epochs"] == 20


# -- documentation ---------------------------------------------------------------------------


def test_every_documented_key_is_declared_so():
    """Rows of parts that are not the project's own may be missing; no row is out of date."""
    _, _, tables = DOCUMENT.read_text(encoding="utf-8").partition(MARK)
    stale = set(tables.splitlines()) - set(render_tables().splitlines())
    assert not stale, "write them anew: python -m utils.config.documentation"


def test_the_examples_of_the_documentation_load(write):
    text = DOCUMENT.read_text(encoding="utf-8")
    examples = [part.split("```")[0] for part in text.split("```json")[1:]]
    assert len(examples) == 3
    for example in examples:
        load_config(write(example))


@pytest.mark.parametrize("text", ["010", "1:30", "0x10"])
def test_what_yaml_takes_for_another_number_is_text(write, text):
    """For YAML 1.1 these are 8, 90 and 16."""
    with pytest.raises(ConfigError, match=f"seed: found '{text}', expected a whole number"):
        load_config(write(f"inherit_from: {CE}\nseed: {text}\n", "mine.yaml"))


def test_a_pipe_is_not_called_missing(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    for path in (tmp_path / "x.json", tmp_path):
        with pytest.raises(ConfigError, match="is no plain file"):
            load_config(path)
