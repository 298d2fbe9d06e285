"""The loader is strict, says everything at once, and forgets nothing it read."""

import copy
import dataclasses
import json
import logging
import random
import re
import time
from pathlib import Path

import pytest

from utils.config import config_from_dict, custom_tag, load_config, parse_custom_args
from utils.config.check import check_keys
from utils.config.documentation import DOCUMENT, MARK, render_tables
from utils.config.files import ROOT
from utils.config.problems import Problems
from utils.config.schema import EXPERT, SCHEMA, TREE, entry_at, join_path, split_path
from utils.errors import ConfigError, UsageError, edit_distance

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
    assert [expert.clusters for expert in config.experts] == [3, 16]
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
    assert (config.arch.use_ce, config.arch.mimic_ce_dims) == ("", True)
    assert config.optimizer.args["lr"] == 0.001
    assert config.trainer.monitor_mode == "off"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\na: 2\n", "'a' comes twice"),
        ("trainer: {epochs: 1, epochs: 2}\n", "'epochs' comes twice"),
        ("1: 2\n", "1 is not text"),
        ("a: &x [1]\nb: *x\n", "aliases are not supported"),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("a: [1\n", "cannot be read as YAML"),
        ("- 1\n", "expected keys and values"),
        ("!!map [1, 2]\n", "expected a mapping"),
        ("[" * 5000, "nested too deeply"),
        ("a: b\n---\nc: d\n", "cannot be read as YAML"),
        ("a: " + "x" * (1 << 20), "is larger than"),
        ("a: \x00\n", "cannot be read as YAML"),
    ],
)
def test_strange_yaml_is_refused(write, text, fault):
    with pytest.raises(ConfigError, match=fault) as caught:
        load_config(write(text, "mine.yml"))
    assert "mine.yml" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"seed": 1, "seed": 2}',
        '{"trainer": {"epochs": NaN}}',
        '{"trainer": {"epochs": Infinity}}',
        "[1]",
        '{"a": ',
        "",
        "[" * 5000,
        '{"seed": ' + "1" * 5000 + "}",
        '{"name": "\\ud800"}',
    ],
)
def test_strange_json_is_refused_naming_the_file(write, text):
    with pytest.raises(ConfigError, match=r"mine\.json"):
        load_config(write(text))


def test_an_absent_file_is_named_with_the_nearest_known():
    with pytest.raises(
        ConfigError, match=r"did you mean 'configs/clotho/train-vggish-vggsound\.json'"
    ):
        load_config("configs/clotho/train-vgish-vggsound.json")


def test_loops_are_told_with_their_way(write, tmp_path):
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


def test_inheriting_twice_over_two_ways_is_fine(write, tmp_path):
    write({"seed": 3}, "seed.json")
    write({"inherit_from": str(tmp_path / "seed.json")}, "a.json")
    write({"inherit_from": str(tmp_path / "seed.json")}, "b.json")
    parents = f"{CE},{tmp_path / 'a.json'},{tmp_path / 'b.json'}"
    assert load_config(write({"inherit_from": parents})).seed == 3


def test_a_tree_of_parents_that_doubles_at_each_level_ends(write, tmp_path):
    write({}, "0.json")
    for level in range(1, 30):
        parent = tmp_path / f"{level - 1}.json"
        write({"inherit_from": f"{parent},{parent}"}, f"{level}.json")
    with pytest.raises(ConfigError, match="more than 100 files"):
        load_config(tmp_path / "29.json")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x.json", "configs/../../x.json", "", ",", "a\0b"]
)
def test_parents_outside_the_repository_are_refused(write, name):
    if name == "":
        name = f"{CE},"
    with pytest.raises(ConfigError, match="expected a file inside the repository"):
        load_config(write({"inherit_from": name}))


def test_a_loop_of_links_is_refused(write, tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(ConfigError, match="inherit_from"):
        load_config(write({"inherit_from": str(tmp_path / "a")}))


def test_a_link_that_leads_outside_is_refused(write, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    write({"seed": 1}, "outside.json")
    (inner / "link.json").symlink_to(tmp_path / "outside.json")
    (inner / "mine.json").write_text(json.dumps({"inherit_from": str(inner / "link.json")}))
    with pytest.raises(ConfigError, match="expected a file inside the repository"):
        load_config(inner / "mine.json")


def test_an_absent_parent_is_an_error_where_the_file_is_not_whole(write):
    with pytest.raises(
        ConfigError,
        match=r"inherit_from: configs/bas\.json is not there; did you mean 'configs/base",
    ):
        load_config(write({"inherit_from": "configs/bas.json"}))
    with pytest.raises(ConfigError, match="is not there"):
        load_config(write({"inherit_from": "x" * 5000}))
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config("x" * 5000)
    with pytest.raises(ConfigError, match="expected one text of file names"):
        load_config(write({"inherit_from": ["configs/base.json"]}))


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
    assert config.arch.use_ce == "pairwise"
    assert config.arch.ce_shared_dim == 24
    assert config.arch.use_mish is True
    assert [expert.name for expert in config.experts] == ["audio", "vggsound"]
    assert [expert.max_tokens for expert in config.experts] == tokens
    assert [expert.in_dim for expert in config.experts] == [256, 512]
    assert [expert.flaky for expert in config.experts] == [flaky, False]
    assert config.text.pooled_width == 600
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
        ({**raw, "seed": 10**5000}, "found an int too long to show"),
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
    [
        "arch.args.kron_dets",
        "arch.args.concat_experts",
        "arch.args.l2renorm",
        "arch.args.randomise_feats",
        "arch.args.freeze_weights",
        "challenge_mode",
        "trainer.distil_params",
        "trainer.cache_targets",
        "trainer.manual_linear_init",
        "data_loader.args.trn_cat",
        "data_loader.args.refresh_lru_cache",
        "data_loader.args.feat_aggregation.audio.binarise",
        "eval_config",
    ],
)
def test_keys_of_older_releases_are_accepted_while_empty(key):
    for empty in (False, 0, "", None, [], {}):
        load_config(CE, {key: empty})
    for asking in (True, 1, "yes", [1], {"a": 1}):
        (line,) = mistakes({key: asking})
        assert line.startswith(f"overrides: {key}")
        assert "not supported" in line or "unknown key" in line


@pytest.mark.parametrize(
    "form", ["pairwise-star", "pairwise-star-specific", "pairwise-star-tensor", "triplet"]
)
def test_ablations_are_refused_by_name(form):
    (line,) = mistakes({"arch.args.use_ce": form})
    assert line == (
        f'overrides: arch.args.use_ce: \'{form}\' is not supported, expected "pairwise" or ""'
    )


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
    assert sorted(line.strip() for line in lines) == sorted(
        [
            f"{tmp_path}/parent.json: loss.args.margn: unknown key; did you mean 'margin'? "
            "(known: fix_norm, margin)",
            f"{tmp_path}/parent.json: trainer.epochs: found 'many', expected a whole number from "
            "1 up",
            next(line.strip() for line in lines if ": sed:" in line),
            f"{path}: data_loader.args.batch_size: found True, expected a whole number from 2 up",
            f"{path}: experts.modalities: unknown expert 'vgsound'; did you mean 'vggsound'?",
        ]
    )
    assert any(f"{path}: sed: unknown key; did you mean 'seed'?" in line for line in lines)


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


def test_mistakes_are_known_at_below_and_above_their_key():
    problems = Problems("x.json")
    assert not problems.at(())
    problems.add(("a", "b"), "wrong")
    problems.add(("a", "b"), "wrong")
    assert [path for path in [(), ("a",), ("a", "b"), ("a", "b", "c"), ("a", "c"), ("b",)]
            if problems.at(path)] == [(), ("a",), ("a", "b"), ("a", "b", "c")]  # fmt: skip
    assert problems.lines() == ["x.json: a.b: wrong"]


def test_an_expert_that_is_no_section_is_a_mistake_like_others(write):
    content = {"data_loader": {"args": {"feat_aggregation": {"mine": {}, "other": 1}}}}
    with pytest.raises(ConfigError, match="other: found 1, expected a section"):
        load_config(write({"inherit_from": CE, **content}))


def test_the_file_named_is_the_one_that_gave_the_value(write):
    (line,) = mistakes({}, write({"inherit_from": CE, "trainer": {"save_period": 99}}))
    assert "mine.json: trainer.save_period: found 99, expected no more than " in line


def test_a_key_of_another_section_is_pointed_at():
    (line,) = mistakes({"trainer.batch_size": 3})
    assert "did you mean 'data_loader.args.batch_size'?" in line


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("trainer.epochs", [0, -1, 1.0, True, "3", None, [3]]),
        ("trainer.tensorboard", [2, -1, "true", 1.0, None]),
        ("trainer.verbosity", [3, -1]),
        ("trainer.save_every_minutes", [-1, float("nan"), float("inf"), True, "1"]),
        ("trainer.monitor", ["max val_loss", "min", "", "larger val_t2v_metrics_R1", True, None]),
        ("trainer.precision", ["fp16", "", 32]),
        ("trainer.early_stop", [-1, 1.5, "no"]),
        ("trainer.start_from", ["", 3]),
        ("data_loader.args.batch_size", [1, 0, -4, 8.0]),
        ("data_loader.args.text_dropout", [-0.1, 1.1, "0"]),
        ("data_loader.args.num_test_captions", [0]),
        ("data_loader.args.split_name", ["tests", 1]),
        ("data_loader.args.root_feat_folder", ["/x", "../x", ""]),
        ("data_loader.args.packed_dtype", ["float32"]),
        ("data_loader.args.max_tokens.audio", [0, -1, "29"]),
        ("data_loader.args.feat_aggregation.audio.temporal", ["vald", "avg-avg", "", None]),
        ("data_loader.args.feat_aggregation.audio.file", ["/x.pkl", "../x.pkl", "x.npy"]),
        ("arch.args.vlad_clusters.audio", [0, -3]),
        ("arch.args.vlad_clusters", [3, [], None]),
        ("arch.args.num_g_layers", [0]),
        ("arch.args.test_caption_mode", ["average"]),
        ("arch.args.use_ce", ["pairwis", 1, True]),
        ("arch.type", ["CEnet"]),
        ("experts.ce_shared_dim", [0, "768"]),
        ("experts.modalities", [[], "audio", ["audio", "audio"], ["audio", 3], [""]]),
        ("experts.text_agg", ["max"]),
        ("optimizer.type", ["SGD", "ranger"]),
        ("optimizer.args.lr", [0, -0.1, "0.01", float("nan")]),
        ("optimizer.args.betas", [[0.9], [0.9, 1.0], 0.9, [True, 0.9]]),
        ("lr_scheduler.type", ["Cosine"]),
        ("lr_scheduler.args.gamma", [0, 1.5]),
        ("loss.type", ["TripletLoss"]),
        ("loss.args.margin", [0, -1, True]),
        ("metrics", [["t2v_metrics"], []]),
        ("task", ["captioning"]),
        ("seed", [-1, 2**32, 0.0]),
        ("training_file", ["../list.txt", "/list.txt"]),
        ("caption_masks", ["masks.npy"]),
        ("eval_settings.data_loader.args.num_test_captions", [0, "5"]),
        ("eval_settings.tester.verbosity", ["2"]),
        ("name", ["a/b", "..", "a\nb", 3]),
    ],
)
def test_wrong_values_are_refused(key, values):
    for value in values:
        lines = mistakes({key: value})
        assert any(line.startswith(f"overrides: {key}: found") for line in lines), value


def test_whole_numbers_are_fine_for_real_ones_and_0_and_1_for_switches():
    config = load_config(
        CE, {"loss.args.margin": 1, "loss.args.fix_norm": 0, "trainer.tensorboard": 1}
    )
    assert (*config.loss.args.values(), config.trainer.tensorboard) == (
        1.0,
        False,
        True,
    )
    assert isinstance(config.loss.args["margin"], float)
    assert isinstance(config.loss.args["fix_norm"], bool)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"arch.args.mimic_ce_dims": True}, 'expected false beside use_ce "pairwise"'),
        ({"experts.modalities": ["audio"]}, 'found "pairwise" with one expert'),
        ({"experts.drop_feats": "audio"}, 'found "pairwise" with one expert'),
        ({"experts.drop_feats": "audio,vggsound"}, "expected some to be left"),
        ({"experts.drop_feats": "adio"}, "unknown expert 'adio'; did you mean 'audio'?"),
        (
            {"arch.args.use_ce": "", "arch.args.mimic_ce_dims": 1},
            "mimic_ce_dims: found true with 2 experts",
        ),
        ({"arch.args.vlad_clusters.text": 0}, "max_tokens.text: found 21, expected 1"),
        (
            {"data_loader.args.text_dropout": 0.5, "data_loader.args.fuse_captions": True},
            "expected 0 beside fuse_captions",
        ),
        (
            {"trainer.epochs": 3, "trainer.save_period": 4},
            "no more than trainer.epochs, which is 3",
        ),
        ({"experts.text_feat": "w2w"}, "'w2w' is not in model/text_embedding_models.json; did you"),
        (
            {"data_loader.args.dataset_name": "Cloth"},
            "unknown data set 'Cloth'; did you mean 'CLOTHO'",
        ),
        ({"data_loader.args.layout": "Clotho"}, "did you mean 'CLOTHO'?"),
        ({"optimizer.args.amsgrad": True}, "Ranger takes no such argument"),
        ({"optimizer.type": "Adam", "optimizer.args.k": 6}, "Adam takes no such argument"),
        ({"optimizer.type": "Rangr"}, "did you mean 'Ranger'?"),
        ({"loss.type": "MaxMarginLoss"}, "did you mean 'MaxMarginRankingLoss'?"),
        (
            {"arch.args.vlad_clusters.vgsound": 3},
            "no expert of this name; did you mean 'vggsound'?",
        ),
        ({"data_loader.args.max_tokens.adio": 3}, "no expert of this name; did you mean 'audio'?"),
        (
            {"data_loader.args.feat_aggregation.vgsound.flaky": True},
            "temporal is missing, expected",
        ),
        (
            {"data_loader.args.feat_aggregation.audio.temporal": "avg"},
            'found temporal "avg", expected "vlad"',
        ),
        ({"experts.modalities": ["audio", "face"]}, "its width is not known"),
        (
            {"text_embedding_model_configs": "model/absent.json"},
            "found 'model/absent.json', expected a file inside the repository",
        ),
        (
            {"text_embedding_model_configs": "/etc/hostname"},
            "expected a file inside the repository",
        ),
        (
            {"eval_settings.data_loader.args": {"fuse_captions": True, "text_dropout": 0.5}},
            "eval_settings.data_loader.args.text_dropout: found more than 0",
        ),
    ],
)
def test_combinations_that_cannot_work_are_refused(overrides, message):
    (line,) = mistakes(overrides)
    assert message in line


def test_missing_keys_are_told(write):
    lines = mistakes({}, write({"experts": {"modalities": ["audio"]}}))
    told = {line.split(": ")[1] for line in lines if ": missing" in line}
    needed = {
        path
        for path, key in SCHEMA.items()
        if repr(key.default).startswith("<object") and EXPERT not in path
    }
    assert told == needed - {"experts.modalities"} - {
        path for path in needed if path.startswith("lr_scheduler")
    }


@pytest.mark.parametrize("key", ["max_tokens", "vlad_clusters"])
def test_an_expert_of_tokens_needs_tokens_and_clusters(key):
    raw = load_config(CE).raw
    section = raw["data_loader"]["args"] if key == "max_tokens" else raw["arch"]["args"]
    del section[key]["audio"]
    with pytest.raises(ConfigError, match=f"{key}.audio: missing"):
        config_from_dict(raw, "x.json")


def misspellings(word):
    """Yield words one typing slip away: a letter lost, changed, added, or two swapped."""
    for i in range(len(word)):
        yield word[:i] + word[i + 1 :]
        yield word[:i] + "q" + word[i + 1 :]
        yield word[:i] + "q" + word[i:]
        yield word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :]


def keys_of(section, path=()):
    for name, value in section.items():
        yield (*path, name)
        if isinstance(value, dict) and (*path, name)[-1] != "feat_aggregation":
            yield from keys_of(value, (*path, name))


def test_every_slip_in_every_key_is_found_and_answered_with_the_key():
    raw = load_config("configs/audiocaps/train-full-ce-scene-r2p1d-inst-vggish-vggsound.json").raw
    tried = 0
    for path in keys_of(raw):
        *sections, key = path
        tables = ("vlad_clusters", "ghost_clusters", "max_tokens")
        if len(path) > 3 and sections[-1] in tables:
            continue  # names of experts: checked one by one in the combinations above
        for slip in set(misspellings(key)):
            if entry_at((*sections, slip)) is not None or not slip:
                continue
            damaged: dict = {}
            place = damaged
            for section in sections:
                place = place.setdefault(section, {})
            place[slip] = "x"
            problems = Problems("x.json")
            check_keys(damaged, problems)
            (line,) = [line for line in problems.lines() if "unknown key" in line]
            suggestion = line.split("did you mean '")[1].split("'")[0]
            # Another key may be as near as the one that was meant.
            assert suggestion == key or edit_distance(slip, suggestion) == 1, line
            tried += 1
    assert tried > 2000


# -- experts ---------------------------------------------------------------------------------


def expert(name, overrides=None):
    settings = {
        "experts.modalities": [name],
        "arch.args.use_ce": "",
        **(overrides or {}),
    }
    return load_config(CE, settings).experts[0]


@pytest.mark.parametrize(
    ("name", "width"),
    [("audio", 128), ("vggsound", 512), ("pann", 2048), ("syncnet", 1024), ("speech", 300)],
)
def test_token_experts_have_their_published_width_and_a_place_the_data_set_knows(name, width):
    found = expert(name)
    assert (found.width, found.tokens, found.files) == (width, True, None)
    assert found.in_dim == width * found.clusters
    assert found.output_width == width


@pytest.mark.parametrize(
    ("name", "width", "file"),
    [
        (
            "r2p1d.r2p1d-ig65m.0",
            512,
            "aggregated_r2p1d_30fps_256px_stride32_offset0_inner_stride1/r2p1d-ig65m-avg.pickle",
        ),
        (
            "imagenet.resnext101_32x48d.0",
            2048,
            "aggregated_imagenet_25fps_256px_stride1_offset0/resnext101_32x48d-avg.pickle",
        ),
        (
            "scene.densenet161.0",
            2208,
            "aggregated_scene_25fps_256px_stride1_offset0/densenet161-avg.pickle",
        ),
        (
            "s3dg.s3dg.1",
            1024,
            "aggregated_s3dg_10fps_224px_stride8_offset0_inner_stride1/s3dg-avg.pickle",
        ),
        (
            "trn.moments-trn.0",
            1792,
            "aggregated_trn_25fps_256px_stride8_offset0_inner_stride5/moments-trn-avg.pickle",
        ),
    ],
)
def test_visual_experts_follow_the_rule_of_places(name, width, file):
    found = expert(name)
    assert (found.width, found.tokens, found.files) == (width, False, (file,))
    assert (found.in_dim, found.max_tokens, found.clusters) == (width, None, None)


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
    assert found.files == (
        f"{folder}/my-net-avg-logits.pickle",
        f"{folder}/my-net-max-logits.pickle",
    )
    assert found.width == 20


def test_face_takes_its_width_from_face_dim():
    found = expert("face", {"experts.face_dim": 512})
    assert (found.width, found.tokens, found.files, found.flaky) == (512, False, None, True)


def test_experts_that_only_the_published_tables_name_are_accepted_there():
    for table in (
        "arch.args.vlad_clusters",
        "arch.args.ghost_clusters",
        "data_loader.args.max_tokens",
    ):
        load_config(CE, {f"{table}.detection-sem": 32})
    (line,) = mistakes({"experts.modalities": ["vggsound", "detection-sem"]})
    assert "unknown expert" in line


def test_averages_are_joined_side_by_side_only():
    (line,) = mistakes({"data_loader.args.feat_aggregation.face.aggregate-axis": 0})
    assert "found 0, expected" in line


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
    assert dataclasses.asdict(found) == {
        "name": "mine",
        "width": 7,
        "tokens": True,
        "max_tokens": 4,
        "clusters": 3,
        "ghost_clusters": 1,
        "flaky": True,
        "files": ("mine/f.hickle",),
    }
    averaged = expert(
        "mine", {f"{MINE}.temporal": "avg", f"{MINE}.file": "f.pkl", f"{MINE}.width": 7}
    )
    assert (averaged.tokens, averaged.in_dim) == (False, 7)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"temporal": "vlad", "file": "f.pkl"}, "needs its `width`"),
        ({"temporal": "vlad", "width": 7}, "not known where its features lie"),
        ({"temporal": "avg-max", "file": "f.pkl", "width": 7}, "one kind of average"),
    ],
)
def test_an_expert_of_ones_own_that_lacks_something_is_told_so(entry, message):
    with pytest.raises(ConfigError, match=message):
        expert("mine", {MINE: entry})


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
        with pytest.raises(ConfigError, match=r'expected {"dim": width}'):
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


def test_paths_of_keys_split_and_join():
    path = ("data_loader", "args", "a.b.0", "file")
    assert join_path(path) == "data_loader.args.a_.b_.0.file"
    assert split_path(join_path(path)) == path


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
    ("text", "message"),
    [
        ("trainer.epocks@3", "unknown key 'trainer.epocks'; did you mean 'trainer.epochs'"),
        ("trainer@3", "trainer is a section"),
        ("trainer.epochs", "expected key@value"),
        ("trainer.epochs@3@4", "expected key@value"),
        ("@3", "expected key@value"),
        ("trainer.epochs@3+", "expected key@value"),
        ("trainer.epochs@3+trainer.epochs@4", "given twice"),
        ("inherit_from@x.json", "cannot be set here"),
        ("name@x", "cannot be set here"),
    ],
)
def test_custom_args_of_another_form_are_usage_errors(text, message):
    with pytest.raises(UsageError, match=message):
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
    assert config.arch.ce_shared_dim == 24
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
    for none in (None, {}):
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


def test_the_documented_tables_are_the_schema():
    _, _, tables = DOCUMENT.read_text(encoding="utf-8").partition(MARK)
    assert tables.strip() == render_tables().strip(), (
        "write them anew: python -m utils.config.documentation"
    )


def test_the_examples_of_the_documentation_load(write):
    text = DOCUMENT.read_text(encoding="utf-8")
    examples = [part.split("```")[0] for part in text.split("```json")[1:]]
    assert len(examples) == 3
    for example in examples:
        load_config(write(example))


def test_every_key_of_the_schema_can_be_reached():
    for path in SCHEMA:
        assert entry_at(split_path(path)) is SCHEMA[path]
    assert (
        entry_at(("eval_settings", "data_loader", "args", "batch_size"))
        is (SCHEMA["data_loader.args.batch_size"])
    )
    assert entry_at(("trainer", "epochs", "x")) is None
    assert set(TREE) >= {"trainer", "loss"}
