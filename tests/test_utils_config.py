"""utils/config: strict, with every mistake at once, its file and its key."""

import copy
import dataclasses
import json
import logging
import random
import re
import time
from pathlib import Path

import pytest

from utils.config import ExpertConfig, config_from_dict, custom_tag, load_config, parse_custom_args
from utils.config.documentation import DOCUMENT, MARK, render_tables
from utils.config.files import ROOT
from utils.config.released import EXPERTS_WITHOUT_FEATURES, WITHOUT_EFFECT
from utils.errors import ConfigError, UsageError
from utils.kinds import EMPTY

CE = "configs/clotho/train-vggish-vggsound.json"
RELEASED = Path(__file__).parent / "data" / "released_audiocaps_ce_config.json"


@pytest.fixture
def write(tmp_path):
    def writer(content, name="mine.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return writer


def mistakes(overrides, path=CE):
    """Return the lines of the error that these settings lead to."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return [line.strip() for line in str(caught.value).splitlines()]


def wrong_keys(overrides, path=CE):
    """Return the keys that the error of these settings names."""
    lines = mistakes(overrides, path)
    return [line.split(": ")[1] for line in lines if not re.match(r"\d+ mistakes in ", line)]


WORDINGS = [
    ("seed", "three", "found 'three', expected a whole number from 0 to 4294967295"),
    ("sed", 1, "unknown key; did you mean 'seed'? (known: "),
    ("trainer.batch_size", 3, "unknown key; did you mean 'data_loader.args.batch_size'? (known: "),
    ("trainer.tensorboard", 2, "found 2, expected true or false"),
    ("trainer.epochs", None, "found None, expected a whole number from 1 up"),
    ("trainer.early_stop", "no", "found 'no', expected a whole number from 0 up, or null"),
    ("trainer.monitor", "min val_t2v_metrics_R2", "did you mean 'val_t2v_metrics_R1'?"),
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
    ("data_loader.args.dataset_name", "Cloth", "unknown data set 'Cloth'; did you mean 'CLOTHO'?"),
    ("data_loader.args.split_name", "tests", "expected train or val or test; did you mean 'test'"),
]


@pytest.mark.parametrize(("key", "value", "wording"), WORDINGS, ids=str)
def test_messages(key, value, wording):
    line = next(line for line in mistakes({key: value}) if f": {key}: " in line)
    assert line.startswith(f"overrides: {key}: ")
    assert wording in line


# -- reading and merging ---------------------------------------------------------------------


def test_sections_merge_and_everything_else_replaces(write):
    path = write(
        {
            "inherit_from": CE,
            "experts": {"modalities": ["vggsound", "pann"]},
            "arch": {"args": {"vlad_clusters": {"pann": 3}}},
        }
    )
    config = load_config(path)
    assert [expert.name for expert in config.experts] == ["pann", "vggsound"]
    assert config.arch.args["vlad_clusters"]["pann"] == 3
    assert config.arch.args["vlad_clusters"]["vggsound"] == 16
    assert config.text.feature == "w2v"


def test_later_files_of_the_list_come_over_earlier_ones_and_the_file_over_all(write, tmp_path):
    write({"trainer": {"epochs": 3, "val_freq": 2}}, "first.json")
    write({"trainer": {"epochs": 4}}, "second.json")
    parents = f"{CE}, {tmp_path / 'first.json'},{tmp_path / 'second.json'}"
    config = load_config(write({"inherit_from": parents, "seed": 9}))
    assert (config.trainer.epochs, config.trainer.val_freq, config.seed) == (4, 2, 9)
    config = load_config(write({"inherit_from": parents, "trainer": {"epochs": 5}}))
    assert config.trainer.epochs == 5


def test_the_working_directory_decides_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_config(CE) == load_config(ROOT / CE)


def test_yaml_is_read_alike(write):
    path = write(
        f"inherit_from: {CE}\n"
        "experts: {modalities: [audio]}\n"
        "arch: {args: {use_ce: '', mimic_ce_dims: true}}\n"
        "optimizer: {args: {lr: 1e-3}}\n"
        "trainer:\n  monitor: off\n  start_from: null\n",
        "mine.yaml",
    )
    config = load_config(path)
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


def test_an_inherited_mistake_names_both_files(write, tmp_path):
    parent = write({"seed": "three"}, "parent.json")
    child = write({"inherit_from": f"{CE},{parent}"})
    with pytest.raises(ConfigError) as caught:
        load_config(child)
    assert str(caught.value).startswith(f"{parent}: seed: ")
    assert str(caught.value).endswith(f" (inherited by {child})")


def test_a_tree_of_parents_that_doubles_at_each_level_ends(write, tmp_path):
    write({"seed": 3}, "0.json")
    for level in range(1, 30):
        parent = tmp_path / f"{level - 1}.json"
        write({"inherit_from": f"{parent},{parent}"}, f"{level}.json")
    assert load_config(write({"inherit_from": f"{CE},{tmp_path / '2.json'}"})).seed == 3
    with pytest.raises(ConfigError, match="more than 100 files"):
        load_config(tmp_path / "29.json")


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x.json", "configs/../../x.json", f"{CE},", ",", "a\0b",
     "{folder}/loop", "{folder}/inner/link.json"],
)  # fmt: skip
def test_parents_outside_the_repository_are_refused(write, tmp_path, name):
    """Loops of links, and links that lead outside, too."""
    (tmp_path / "loop").symlink_to(tmp_path / "pool")
    (tmp_path / "pool").symlink_to(tmp_path / "loop")
    (tmp_path / "inner").mkdir()
    write({"seed": 1}, "outside.json")
    (tmp_path / "inner" / "link.json").symlink_to(tmp_path / "outside.json")
    path = write({"inherit_from": name.format(folder=tmp_path)}, "inner/mine.json")
    with pytest.raises(ConfigError, match=f"{re.escape(str(path))}: inherit_from: "):
        load_config(path)


@pytest.mark.parametrize("named", ["configs/bas.json", "x" * 5000, ["configs/base.json"]])
def test_an_absent_parent_is_an_error_where_the_file_is_not_whole(write, named):
    with pytest.raises(ConfigError, match=r"mine\.json: inherit_from: "):
        load_config(write({"inherit_from": named}))


# -- released files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tokens", "flaky"), [("audiocaps", [29, 29], True), ("clotho", [31, 95], False)]
)
def test_released_files_load(name, tokens, flaky, caplog):
    path = RELEASED.parent / f"released_{name}_ce_config.json"
    with caplog.at_level(logging.WARNING):
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


def test_a_released_dict_loads_like_its_file(caplog):
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
        ({**raw, 1: 2}, "the key 1 is not text"),
        ({**raw, "trainer": deep}, "nested too deeply"),
        ({**raw, "seed": 10**5000}, "found an integer of"),
        ({**raw, "seed": object()}, "seed: found <object"),
        ({**raw, "experts": {**raw["experts"], "modalities": [["audio"]]}}, "modalities: found"),
        ({**raw, "name": ["x"]}, "name: found"),
        ({**raw, "trainer": 3}, "trainer: found 3, expected a section"),
    ):
        with pytest.raises(ConfigError, match=fault):
            config_from_dict(strange, "model.pth")


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
    [key for key, kind in WITHOUT_EFFECT.items() if kind is EMPTY and "*" not in key]
    + ["data_loader.args.feat_aggregation.audio.binarise"],
)
def test_keys_of_older_releases_are_accepted_while_empty(key):
    for empty in (False, "", None):
        load_config(CE, {key: empty})
    for asking in (True, "yes", [1]):
        assert wrong_keys({key: asking}) == [key]


def test_published_values_without_effect_are_accepted():
    load_config(
        CE,
        {
            "n_gpu": 1,
            "disable_gpu": True,
            "disable_nan_checks": True,
            "task": "retrieval",
            "log_name": "info.json",
            "eval_mode": "test_run",
            "experts.use_zeros_for_missing": True,
            "eval_settings.disable_gpu": True,
            **{f"arch.args.vlad_clusters.{name}": 1 for name in EXPERTS_WITHOUT_FEATURES},
            "data_loader.args.max_tokens.audiocaps": 1,
            "visualizer": {"type": "Visualizer", "args": {"num_samples": 5}},
            "metrics": ["v2t_metrics", "t2v_metrics"],
        },
    )


# -- mistakes --------------------------------------------------------------------------------


def test_all_mistakes_are_reported_at_once_with_their_file(write, tmp_path):
    write({"loss": {"args": {"margn": 0.3}}, "trainer": {"epochs": "many"}}, "parent.json")
    path = write(
        {
            "inherit_from": f"{CE},{tmp_path / 'parent.json'}",
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
        (str(tmp_path / "parent.json"), "loss.args.margn"),
        (str(tmp_path / "parent.json"), "trainer.epochs"),
        (str(path), "data_loader.args.batch_size"),
        (str(path), "experts.modalities"),
        (str(path), "sed"),
    }


@pytest.mark.parametrize(
    "table",
    [(), ("loss",), ("eval_settings",), ("data_loader", "args", "feat_aggregation"),
     ("data_loader", "args", "max_tokens"), ("arch", "args", "vlad_clusters")],
    ids=".".join,
)  # fmt: skip
def test_of_thousands_of_mistakes_the_first_are_listed(write, table):
    """Each was compared with all others, and its line repeated all that is known."""
    content: dict = {f"unknown{n}": {} for n in range(10_000)}
    for key in reversed(table):
        content = {key: content}
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_config(write({"inherit_from": CE, **content}))
    assert time.monotonic() - began < 10
    first, *lines, last = str(caught.value).splitlines()
    count = int(re.match(r"(\d+) mistakes in ", first)[1])
    assert count >= 10_000
    assert len(lines) == 50
    assert last == f"  and {count - 50} more"


def test_an_expert_that_is_no_section_is_a_mistake_like_others(write):
    content = {"data_loader": {"args": {"feat_aggregation": {"mine": {}, "other": 1}}}}
    table = "data_loader.args.feat_aggregation"
    assert wrong_keys({}, write({"inherit_from": CE, **content})) == [
        f"{table}.mine.temporal",
        f"{table}.other",
    ]


def test_arguments_of_the_class_inherited_are_left_behind_by_another():
    config = load_config(CE, {"optimizer.args": {"k": 4}}, custom_args="optimizer.type@Ranger")
    assert config.optimizer.args["k"] == 4
    config = load_config(CE, {"optimizer.type": "Adam"}, custom_args="optimizer.args.k@4")
    assert (config.optimizer.type, config.optimizer.args["lr"]) == ("Adam", 0.01)
    assert config.raw["optimizer"]["args"] == {"lr": 0.01, "weight_decay": 0.001}
    assert wrong_keys({"optimizer.type": "Adam", "optimizer.args.k": 4}) == ["optimizer.args.k"]


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
        ("data_loader.args.batch_size", [1, 0, -4, 8.0]),
        ("data_loader.args.text_dropout", [-0.1, 1.1, "0"]),
        ("data_loader.args.expert_dropout", [-0.1, 1.1, None]),
        ("data_loader.args.mix_up", [-0.1, 1.1, None]),
        ("data_loader.args.feature_noise", [-0.1, float("inf")]),
        ("data_loader.args.root_feat_folder", ["/x", "../x", ""]),
        ("data_loader.args.max_tokens.audio", [0, -1, "29"]),
        ("data_loader.args.feat_aggregation.audio.temporal", ["vald", "avg-avg", "", None]),
        ("data_loader.args.feat_aggregation.audio.file", ["/x.pkl", "../x.pkl", "x.npy"]),
        ("arch.args.vlad_clusters.audio", [0, -3, "3"]),
        ("arch.args.vlad_clusters", [3, [], None]),
        ("arch.args.pooling.audio", ["mean", "", None, 3]),
        ("arch.args.use_ce", ["pairwis", 1, True]),
        ("experts.modalities", [[], "audio", ["audio", "audio"], ["audio", 3], [""]]),
        ("optimizer.args.lr", [0, -0.1, "0.01", float("nan")]),
        ("optimizer.args.betas", [[0.9], [0.9, 1.0], 0.9, [True, 0.9]]),
        ("lr_scheduler.args.gamma", [0, 1.5]),
        ("metrics", [["t2v_metrics"], []]),
        ("seed", [-1, 2**32, 0.0]),
        ("caption_masks", ["masks.npy"]),
        ("eval_settings.data_loader.args.num_test_captions", [0, "5"]),
        ("eval_settings.tester.verbosity", ["2"]),
        ("name", ["a/b", "..", "a\nb", 3]),
    ],
)
def test_wrong_values_are_refused(key, values):
    for value in values:
        assert any(wrong.startswith(key) for wrong in wrong_keys({key: value})), value


def test_whole_numbers_are_fine_for_real_ones_and_0_and_1_for_switches():
    config = load_config(
        CE, {"loss.args.margin": 1, "loss.args.fix_norm": 0, "trainer.tensorboard": 1}
    )
    assert (*config.loss.args.values(), config.trainer.tensorboard) == (1.0, False, True)
    assert isinstance(config.loss.args["margin"], float)
    assert isinstance(config.loss.args["fix_norm"], bool)


TABLE = "data_loader.args.feat_aggregation"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"arch.args.mimic_ce_dims": True}, "arch.args.mimic_ce_dims"),
        ({"experts.modalities": ["audio"]}, "arch.args.use_ce"),
        ({"experts.drop_feats": "audio"}, "arch.args.use_ce"),
        ({"experts.drop_feats": "audio,vggsound"}, "experts.drop_feats"),
        ({"experts.drop_feats": "adio"}, "experts.drop_feats"),
        ({"arch.args.use_ce": "", "arch.args.mimic_ce_dims": 1}, "arch.args.mimic_ce_dims"),
        ({"arch.args.vlad_clusters.text": 0}, "arch.args.vlad_clusters.text"),
        ({"arch.args.pooling.adio": "attention"}, "arch.args.pooling.adio"),
        (
            {"arch.args": {"pooling": {"text": "vlad"}, "vlad_clusters": {"text": 0}}},
            "arch.args.vlad_clusters.text",
        ),
        (
            {"data_loader.args.text_dropout": 0.5, "data_loader.args.fuse_captions": True},
            "data_loader.args.text_dropout",
        ),
        (
            {
                "experts.modalities": ["audio"],
                "arch.args": {"use_ce": "", "mimic_ce_dims": True},
                "data_loader.args.expert_dropout": 0.5,
            },
            "data_loader.args.expert_dropout",
        ),
        ({"trainer.compile": True, "trainer.embed_at_once": 8}, "trainer.embed_at_once"),
        ({"trainer.epochs": 3, "trainer.save_period": 4}, "trainer.save_period"),
        ({"experts.text_feat": "w2w"}, "experts.text_feat"),
        ({"data_loader.args.layout": "Clotho"}, "data_loader.args.layout"),
        ({"optimizer.type": "Adam", "optimizer.args.k": 6}, "optimizer.args.k"),
        ({"optimizer.type": "Rangr"}, "optimizer.type"),
        ({"data_loader.args.max_tokens.adio": 3}, "data_loader.args.max_tokens.adio"),
        ({f"{TABLE}.vgsound.flaky": True}, f"{TABLE}.vgsound.temporal"),
        ({f"{TABLE}.audio.temporal": "avg"}, f"{TABLE}.audio"),
        ({"experts.modalities": ["audio", "face"]}, f"{TABLE}.face"),
        ({"text_embedding_model_configs": "model/absent.json"}, "text_embedding_model_configs"),
        ({"text_embedding_model_configs": "/etc/hostname"}, "text_embedding_model_configs"),
        (
            {"eval_settings.data_loader.args": {"fuse_captions": True, "text_dropout": 0.5}},
            "eval_settings.data_loader.args.text_dropout",
        ),
        ({"eval_settings.data_loder": {}}, "eval_settings.data_loder"),
        (
            {"eval_settings.data_loader.args.split": 1},
            "eval_settings.data_loader.args.split",
        ),
    ],
)
def test_combinations_that_cannot_work_are_refused(overrides, key):
    assert wrong_keys(overrides) == [key]


def test_every_missing_key_is_named(write):
    path = write({"experts": {"modalities": ["audio"]}, "loss": {"type": "MaxMarginRankingLoss"}})
    lines = mistakes({}, path)[1:]
    assert all(": missing, expected " in line or "unknown expert" in line for line in lines)
    assert {line.split(": ")[1] for line in lines} == {
        "arch.type", "data_loader.args.data_dir", "data_loader.args.batch_size",
        "data_loader.args.dataset_name", "data_loader.args.max_tokens.text", "experts.modalities",
        "experts.text_feat", "optimizer.type", "trainer.epochs",
    }  # fmt: skip


@pytest.mark.parametrize("key", ["max_tokens", "vlad_clusters"])
def test_an_expert_of_tokens_needs_tokens_and_clusters(key):
    raw = load_config(CE).raw
    section = raw["data_loader"]["args"] if key == "max_tokens" else raw["arch"]["args"]
    del section[key]["audio"]
    with pytest.raises(ConfigError, match=rf"{key}\.audio: missing"):
        config_from_dict(raw, "x.json")


# -- experts ---------------------------------------------------------------------------------


def expert(name, overrides=None):
    settings = {"experts.modalities": [name], "arch.args.use_ce": "", **(overrides or {})}
    return load_config(CE, settings).experts[0]


@pytest.mark.parametrize(
    ("name", "width", "tokens", "folder"),
    [
        ("audio", 128, True, None),
        ("vggsound", 512, True, None),
        ("pann", 2048, True, None),
        ("syncnet", 1024, True, None),
        ("speech", 300, True, None),
        ("r2p1d.r2p1d-ig65m.0", 512, False, "r2p1d_30fps_256px_stride32_offset0_inner_stride1"),
        ("imagenet.resnext101_32x48d.0", 2048, False, "imagenet_25fps_256px_stride1_offset0"),
        ("scene.densenet161.0", 2208, False, "scene_25fps_256px_stride1_offset0"),
        ("s3dg.s3dg.1", 1024, False, "s3dg_10fps_224px_stride8_offset0_inner_stride1"),
        ("trn.moments-trn.0", 1792, False, "trn_25fps_256px_stride8_offset0_inner_stride5"),
    ],
)
def test_experts_have_their_published_widths_and_files(name, width, tokens, folder):
    found = expert(name)
    files = folder and (f"aggregated_{folder}/{name.split('.')[1]}-avg.pickle",)
    assert (found.width, found.tokens, found.files) == (width, tokens, files)
    assert (found.max_tokens is None) != tokens


def test_several_aggregates_are_several_files_and_as_many_widths():
    table = "data_loader.args.feat_aggregation.new-type_.my-net_.0"
    found = expert(
        "new-type.my-net.0",
        {
            f"{table}.temporal": "avg-max",
            f"{table}.type": "logits",
            f"{table}.feat_dims.logits": 10,
            f"{table}.fps": 5,
            f"{table}.num_segments": 3,
            f"{table}.stride": None,
            f"{table}.aggregate-axis": 1,
        },
    )
    folder = "aggregated_new_type_5fps_num_segments3"
    assert found.files == tuple(f"{folder}/my-net-{one}-logits.pickle" for one in ("avg", "max"))
    assert found.width == 20


def test_face_takes_its_width_from_face_dim():
    found = expert("face", {"experts.face_dim": 512})
    assert (found.width, found.tokens, found.files, found.flaky) == (512, False, None, True)


def test_averages_are_joined_side_by_side_only():
    axis = "data_loader.args.feat_aggregation.face.aggregate-axis"
    assert wrong_keys({axis: 0}) == [axis]


MINE = "data_loader.args.feat_aggregation.mine"


def test_an_expert_of_ones_own_needs_entries_only():
    found = expert(
        "mine",
        {
            f"{MINE}.temporal": "vlad",
            f"{MINE}.file": "mine/f.hickle",
            f"{MINE}.width": 7,
            f"{MINE}.flaky": True,
            "data_loader.args.max_tokens.mine": 4,
            "arch.args.vlad_clusters.mine": 3,
            "arch.args.ghost_clusters.mine": 1,
        },
    )
    assert found == ExpertConfig("mine", 7, True, 4, True, ("mine/f.hickle",))
    averaged = expert(
        "mine", {f"{MINE}.temporal": "avg", f"{MINE}.file": "f.pkl", f"{MINE}.width": 7}
    )
    assert (averaged.tokens, averaged.width) == (False, 7)


@pytest.mark.parametrize(
    "entry",
    [
        {"temporal": "vlad", "file": "f.pkl"},
        {"temporal": "vlad", "width": 7},
        {"temporal": "avg-max", "file": "f.pkl", "width": 7},
    ],
)
def test_an_expert_of_ones_own_that_lacks_something_is_refused(entry):
    settings = {"experts.modalities": ["mine"], "arch.args.use_ce": "", MINE: entry}
    assert wrong_keys(settings) == [MINE]


def test_a_data_set_of_ones_own_names_its_layout(write):
    path = write(
        {
            "inherit_from": CE,
            "data_loader": {
                "args": {"dataset_name": "Mine", "layout": "CLOTHO", "data_dir": "data/mine"}
            },
        }
    )
    config = load_config(path)
    assert (config.data.dataset_name, config.data.layout) == ("Mine", "CLOTHO")
    assert config.dataset_folder == "mine"


def test_a_text_feature_of_ones_own_is_one_line(write, tmp_path):
    table = write({"mine": {"dim": 12}}, "table.json")
    settings = {"inherit_from": CE, "text_embedding_model_configs": str(table)}
    config = load_config(write({**settings, "experts": {"text_feat": "mine"}}))
    assert config.text.width == 12
    for damaged in ({"mine": {"dim": "12"}}, {"mine": 12}, {"mine": {"dim": 1, "d": 2}}):
        write(damaged, "table.json")
        with pytest.raises(ConfigError, match=r"table\.json: mine"):
            load_config(tmp_path / "mine.json")


# -- settings from elsewhere -----------------------------------------------------------------


def test_overrides_leave_the_name_alone_and_reach_keys_with_dots():
    config = load_config(
        CE,
        {
            "data_loader.args.feat_aggregation.imagenet_.senet154_.0.flaky": True,
            "data_loader.args.data_dir": Path("data") / "elsewhere",
            "lr_scheduler": None,
        },
    )
    assert config.name == "clotho-train-vggish-vggsound"
    table = config.raw["data_loader"]["args"]["feat_aggregation"]
    assert table["imagenet.senet154.0"]["flaky"] is True
    assert config.data.data_dir == "data/elsewhere"
    assert config.lr_scheduler is None


def test_keys_that_cannot_be_printed_are_escaped():
    raw = {**load_config(CE).raw, "\x1b[2Jseed\ud800\n": 1}
    with pytest.raises(ConfigError) as caught:
        config_from_dict(raw, "x.json")
    assert str(caught.value).isprintable()


def test_custom_args_take_the_type_of_their_key():
    assert parse_custom_args(
        "experts.modalities@audio,+experts.drop_feats@a,b+trainer.epochs@5+trainer.tensorboard@0+"
        "loss.args.margin@0.5+optimizer.args.betas@0.9,0.99+arch.args.use_ce@+"
        "trainer.early_stop@null+arch.args.mimic_ce_dims@true+trainer.save_every_minutes@1+"
        "data_loader.args.feat_aggregation.imagenet_.senet154_.0.flaky@False+arch.args.l2renorm@0"
    ) == {
        "experts.modalities": ["audio"],
        "experts.drop_feats": ["a", "b"],
        "trainer.epochs": 5,
        "trainer.tensorboard": False,
        "loss.args.margin": 0.5,
        "optimizer.args.betas": [0.9, 0.99],
        "arch.args.use_ce": "",
        "trainer.early_stop": None,
        "arch.args.mimic_ce_dims": True,
        "trainer.save_every_minutes": 1.0,
        "data_loader.args.feat_aggregation.imagenet_.senet154_.0.flaky": False,
        "arch.args.l2renorm": False,
    }
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
    assert config.arch.args["ce_shared_dim"] == 24
    assert config.data.batch_size == 8
    assert load_config(CE, {"trainer.epochs": 1}, tag="-train-single-epoch").name == (
        "clotho-train-vggish-vggsound-train-single-epoch"
    )


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


def test_a_very_long_name_is_cut_and_stays_distinct():
    names = [
        load_config(CE, custom_args=f"training_file@{'x' * 300}{i}.txt").name for i in range(2)
    ]
    assert names[0] != names[1]
    assert all(len(name.encode()) == 200 for name in names)


def test_data_dir_replaces_the_leading_data_everywhere():
    config = load_config(CE, data_dir="/disk/d")
    assert config.data.data_dir == "/disk/d/CLOTHO"
    assert config.data.packed_dir == "/disk/d/packed"
    assert config.trainer.save_dir == "/disk/d/saved"
    released = load_config(RELEASED, data_dir="elsewhere")
    assert released.data.packed_dir == "elsewhere/packed"
    assert released.for_evaluation().trainer.save_dir == "elsewhere/saved"
    assert released.raw["trainer"]["save_dir"] == "elsewhere/saved"
    kept = load_config(CE, {"data_loader.args.data_dir": "database/x"}, data_dir="y")
    assert kept.data.data_dir == "database/x"


def test_the_test_run_takes_eval_settings_over_the_rest():
    config = load_config(
        CE,
        {
            "eval_settings.data_loader.args.batch_size": 7,
            "eval_settings.tester": {"save_dir": "x", "verbosity": None},
        },
    )
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
    write({"inherit_from": CE, "name": "parent"}, "parent.json")
    child = write({"inherit_from": str(tmp_path / "parent.json")}, "child.json")
    assert load_config(tmp_path / "parent.json").name == "parent"
    assert load_config(child).name == f"{tmp_path.name}-child"


def test_a_config_neither_shares_nor_changes_what_it_was_made_of():
    first = load_config(CE)
    first.raw["trainer"]["epochs"] = 99
    assert load_config(CE).raw["trainer"]["epochs"] == 20
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.seed = 3  # type: ignore[misc]


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


@pytest.mark.parametrize(("text", "number"), [("010", 8), ("1:30", 90)])
def test_numbers_that_yaml_reads_otherwise_are_refused(write, text, number):
    path = write(f"inherit_from: {CE}\nseed: {text}\n", "mine.yaml")
    with pytest.raises(ConfigError, match=f"'{text}' would be {number} in YAML"):
        load_config(path)
