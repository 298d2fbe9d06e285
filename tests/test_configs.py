"""The experiments in configs/: all load, and each is what its name says; those of both papers."""

import json
from pathlib import Path

import pytest
import torch

from data_loader import DATASETS
from model import build_model
from utils.config import load_config
from utils.config.files import ROOT
from utils.fetching.experiments import find_experiment, load_experiments

SCENE = "scene.densenet161.0"
R2P1D = "r2p1d.r2p1d-ig65m.0"
INST = "imagenet.resnext101_32x48d.0"

AUDIO_ONLY = ("ce_single", ["audio"], 7_389_127)
BOTH = ("ce", ["audio", "vggsound"], 21_864_536)
BOTH_MOEE = ("moee", ["audio", "vggsound"], 8_903_512)

COMBINATIONS = {
    "only-audio": AUDIO_ONLY,
    "only-inst": ("ce_single", [INST], 7_384_999),
    "only-r2p1d": ("ce_single", [R2P1D], 6_205_351),
    "only-scene": ("ce_single", [SCENE], 7_507_879),
    "r2p1d-inst": ("ce", [INST, R2P1D], 15_945_752),
    "r2p1d-inst-vggish": ("ce", ["audio", INST, R2P1D], 23_324_073),
    "r2p1d-inst-vggish-vggsound": ("ce", ["audio", INST, R2P1D, "vggsound"], 35_433_274),
    "r2p1d-inst-vggsound": ("ce", [INST, R2P1D, "vggsound"], 28_054_953),
    "scene-inst": ("ce", [INST, SCENE], 17_248_280),
    "scene-r2p1d": ("ce", [R2P1D, SCENE], 16_068_632),
    "scene-r2p1d-inst": ("ce", [INST, R2P1D, SCENE], 23_442_825),
    "scene-r2p1d-inst-vggish-vggsound": (
        "ce",
        ["audio", INST, R2P1D, SCENE, "vggsound"],
        42_930_347,
    ),
    "scene-r2p1d-inst-vggsound": ("ce", [INST, R2P1D, SCENE, "vggsound"], 35_552_026),
}
"""Experts combined on AudioCaps, as the experiments are called."""

PUBLISHED = {
    "activity-net/train-full-ce-audio-only": AUDIO_ONLY,
    "audiocaps/train-only-vggsound": ("ce_single", ["vggsound"], 12_120_007),
    "audiocaps/train-vggish-vggsound": BOTH,
    "audiocaps/train-vggish-vggsound-finetuned-from-sd": BOTH,
    "audiocaps/train-vggish-vggsound-moee": BOTH_MOEE,
    "clotho/train-full-ce-only-audio": AUDIO_ONLY,
    "clotho/train-vggish-vggsound": BOTH,
    "clotho/train-vggish-vggsound-finetuned": BOTH,
    "clotho/train-vggish-vggsound-finetuned-from-ac": BOTH,
    "clotho/train-vggish-vggsound-finetuned-from-sd": BOTH,
    "clotho/train-vggish-vggsound-moee": BOTH_MOEE,
    "clotho/train-vggish-vggsound-moee-finetuned": BOTH_MOEE,
    "queryd/train-full-ce-only-audio": AUDIO_ONLY,
    "querydsegments/train-full-ce-only-audio": AUDIO_ONLY,
    "sounddescs/train-full-ce-only-audio": AUDIO_ONLY,
    "sounddescs/train-vggish-vggsound": BOTH,
    "sounddescs/train-vggish-vggsound-finetuned-from-ac": BOTH,
    "sounddescs/train-vggish-vggsound-moee": BOTH_MOEE,
    **{
        f"{folder}/train-vggish-vggsound-train_list_{percent}": BOTH
        for folder in ("audiocaps", "sounddescs")
        for percent in (10, 25, 50, 75)
    },
    **{f"audiocaps/train-full-ce-{name}": row for name, row in COMBINATIONS.items()},
}
"""Experiment -> form, experts in order, trainable parameters."""

OURS = {
    "clotho/train-linear": ("linear", ["audio", "vggsound"]),
    "recipes/clotho-best": ("kernel", ["audio", "vggsound"]),
    "soundscenes/train-linear": ("linear", ["logmel", "modulation"]),
    "soundscenes/train-logmel-modulation": ("ce", ["logmel", "modulation"]),
    "soundscenes/train-logmel-modulation-moee": ("moee", ["logmel", "modulation"]),
    "soundscenes/train-only-logmel": ("ce_single", ["logmel"]),
    "soundscenes/train-only-modulation": ("ce_single", ["modulation"]),
}

# folder -> data_loader.args and the test split of its experiments, as published
# (name, words, tokens of audio and of vggsound, fuse_captions, splits, captions at test)
DATA = {
    "activity-net": ("ActivityNet", 20, 29, None, True, "val1", "val1", 1),
    "audiocaps": ("AudioCaps", 20, 29, 29, False, "val", "test", 5),
    "clotho": ("CLOTHO", 21, 31, 95, False, "val", "test", 5),
    "queryd": ("QuerYD", 70, 500, None, True, "val", "test", 1),
    "querydsegments": ("QuerYDSegments", 70, 500, None, False, "val", "test", 1),
    "sounddescs": ("SoundDescs", 46, 400, 400, True, "val", "test", 1),
}

EVERY = [*PUBLISHED, *OURS]
MMT = [f"{folder}/train-mmt" for folder in ("audiocaps", "clotho", "sounddescs")]
MMT_PARAMETERS = 127_084_290


def load(experiment, **settings):
    return load_config(f"configs/{experiment}.json", **settings)


def form_of(config):
    if config.arch.type.endswith("Alignment"):
        return config.arch.type.removesuffix("Alignment").lower()
    args = config.arch.args
    return "ce" if args["use_ce"] else "ce_single" if args["mimic_ce_dims"] else "moee"


def count_parameters(config):
    """Count the trainable parameters from the shapes of the published model."""

    def linear(inner, outer):
        return inner * outer + outer

    def net_vlad(width, clusters, ghosts):
        return width * (clusters + ghosts) + width * clusters + 2 * (clusters + ghosts)

    def gated(inner, outer):
        return linear(inner, outer) + linear(outer, outer) + 2 * outer

    args, text = config.arch.args, config.text
    shared, clusters = args["ce_shared_dim"], args["vlad_clusters"]
    pooled = text.width * clusters["text"]
    total = net_vlad(text.width, clusters["text"], args["ghost_clusters"]["text"])
    total += linear(pooled, len(config.experts))
    for expert in config.experts:
        in_dim = expert.width
        if expert.tokens:
            total += net_vlad(expert.width, clusters[expert.name], 0)
            in_dim *= clusters[expert.name]
        out_dim = expert.width if form_of(config) == "moee" else shared
        total += gated(in_dim, out_dim) + gated(pooled, out_dim)
    if form_of(config) == "ce":
        total += linear(2 * shared, shared)
        total += (args["num_g_layers"] - 1) * (2 * shared + linear(shared, shared))
        total += len(config.experts) * 2 * shared  # the second batch norm of each gate
    return total


def test_these_are_all_experiments_there_are():
    files = {
        str(path.relative_to(ROOT / "configs").with_suffix(""))
        for path in (ROOT / "configs").glob("*/*.json")
        if path.parent.name not in ("datasets", "mine")
    }
    assert files == {*EVERY, *MMT, "soundscenes/train-mmt"}
    assert len(PUBLISHED) == 39


@pytest.mark.parametrize("experiment", EVERY)
def test_form_and_experts(experiment):
    config = load(experiment)
    form, experts, *_ = {**PUBLISHED, **OURS}[experiment]
    assert form_of(config) == form
    assert [expert.name for expert in config.experts] == experts
    assert config.name == experiment.replace("/", "-")


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_the_number_of_parameters_is_the_published_one(experiment):
    assert count_parameters(load(experiment)) == PUBLISHED[experiment][2]


@pytest.mark.parametrize("experiment", MMT)
def test_mmt_has_its_published_size(experiment, tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("".join(f"piece{number}\n" for number in range(28_996)))
    changes = {"arch.args.vocab": str(vocabulary), "arch.args.txt_bert_weights": None}
    config = load(experiment, overrides=changes)
    with torch.device("meta"):
        model = build_model(config)
    assert sum(one.numel() for one in model.parameters()) == MMT_PARAMETERS
    assert config.needs.frames
    assert config.data.fuse_captions
    assert (config.optimizer.type, config.optimizer.args["lr"]) == ("Adam", 5e-5)
    assert (config.loss.args["margin"], config.trainer.monitor_mode) == (0.05, "off")
    _, text, *_ = DATA[experiment.split("/")[0]]
    words, frames = {20: (52, 32), 21: (21, 95), 46: (46, 400)}[text]
    assert config.text.max_tokens == words
    assert [expert.max_tokens for expert in config.experts] == [frames, frames]


@pytest.mark.parametrize("experiment", load_experiments().values(), ids=load_experiments())
def test_the_registry_has_the_parameters_of_its_configs(experiment):
    place = experiment.config.removeprefix("configs/").removesuffix(".json")
    assert experiment.parameters == (MMT_PARAMETERS if place in MMT else PUBLISHED[place][2])


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_data_and_protocol_are_the_published_ones(experiment):
    folder = experiment.split("/")[0]
    name, text, audio, vggsound, fused, split, test_split, captions = DATA[folder]
    config = load(experiment)
    data, test = config.data, config.for_evaluation().data
    assert (data.dataset_name, data.layout, data.data_dir) == (
        name,
        name,
        f"data/{folder if folder == 'activity-net' else name}",
    )
    assert (data.root_feat_folder, data.batch_size) == ("structured-symlinks", 128)
    assert (data.fuse_captions, data.split_name, data.num_test_captions) == (fused, split, 1)
    assert (test.split_name, test.num_test_captions) == (test_split, captions)
    assert (data.text_dropout, data.restrict_train_captions, data.drop_last) == (0.0, 0, False)
    assert (config.text.feature, config.text.width, config.text.aggregate) == ("w2v", 300, "vlad")
    clusters = config.arch.args["vlad_clusters"]
    assert (config.text.max_tokens, clusters["text"]) == (text, 20)
    assert config.arch.args["ghost_clusters"] == {"text": 1}
    tokens = {"audio": audio, "vggsound": vggsound}
    for expert in config.experts:
        assert expert.max_tokens == tokens.get(expert.name)
        assert clusters.get(expert.name) == (16 if expert.tokens else None)


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_model_and_training_are_the_published_ones(experiment):
    config = load(experiment)
    arch, trainer = config.arch.args, config.trainer
    assert (arch["ce_shared_dim"], arch["num_g_layers"], arch["num_h_layers"]) == (768, 3, 0)
    assert all(arch[name] for name in ("use_mish", "use_bn_reason", "include_self"))
    assert (arch["keep_missing_modalities"], arch["test_caption_mode"]) == (False, "indep")
    assert config.optimizer.type == "Ranger"
    assert config.optimizer.args.items() >= {"lr": 0.01, "weight_decay": 0.001}.items()
    assert config.lr_scheduler is not None
    assert config.lr_scheduler.args == {"step_size": 1, "gamma": 0.95}
    assert config.loss.type == "MaxMarginRankingLoss"
    assert config.loss.args == {"margin": 0.2, "fix_norm": True}
    assert (trainer.epochs, trainer.monitor_mode, trainer.save_only_best) == (20, "max", True)
    assert trainer.monitor_metric == "val_t2v_metrics_geometric_mean_R1-R5-R10"
    assert (trainer.precision, trainer.compile, trainer.cuda_graphs) == ("fp32", False, True)


@pytest.mark.parametrize(
    ("folder", "flaky"),
    [
        ("audiocaps", {"audio", "speech", "ocr", "face"}),
        ("clotho", {"speech", "ocr", "face"}),
        ("queryd", {"audio", "speech", "ocr", "face"}),
        ("querydsegments", {"audio", "speech", "ocr", "face"}),
        ("activity-net", {"audio", "speech", "ocr", "face"}),
        ("sounddescs", {"speech", "ocr", "face"}),
    ],
)
def test_experts_that_may_be_missing_in_training(folder, flaky):
    (experiment, *_) = (name for name in PUBLISHED if name.startswith(f"{folder}/"))
    table = load(experiment).raw["data_loader"]["args"]["feat_aggregation"]
    assert {name for name, entry in table.items() if entry.get("flaky")} == flaky


@pytest.mark.parametrize("percent", [10, 25, 50, 75])
@pytest.mark.parametrize(
    ("folder", "test_list"),
    [("audiocaps", "final_filtered_test_list.txt"), ("sounddescs", "test_list.txt")],
)
def test_parts_of_the_training_list(folder, test_list, percent):
    config = load(f"{folder}/train-vggish-vggsound-train_list_{percent}")
    assert config.data.training_file == f"train_list_{percent}.txt"
    assert config.data.testing_file == test_list


STARTS = {
    "-finetuned-from-ac": ("2022", "audiocaps/train-vggish-vggsound"),
    "-finetuned-from-sd": ("2022", "sounddescs/train-vggish-vggsound"),
    "vggsound-finetuned": ("2021", "audiocaps/train-vggish-vggsound"),
    "moee-finetuned": ("2021", "audiocaps/train-vggish-vggsound-moee"),
}
"""The end of the name of an experiment -> the paper and the experiment that it starts from."""


@pytest.mark.parametrize("experiment", EVERY)
def test_fine_tuning_starts_from_an_experiment_that_keeps_its_optimiser(experiment):
    trainer = load(experiment).trainer
    starts = [start for end, start in STARTS.items() if experiment.endswith(end)]
    assert trainer.finetune_optimizer == bool(starts) == ("finetuned" in experiment)
    assert bool(trainer.start_from) == bool(starts)
    for paper, place in starts:
        start = find_experiment(trainer.start_from)
        assert (start.paper, start.config) == (paper, f"configs/{place}.json")
        assert load(place).trainer.include_optim_in_ckpts
        if paper == "2021":  # nothing starts from these
            assert not trainer.include_optim_in_ckpts


@pytest.mark.parametrize("experiment", [name for name in OURS if name.startswith("soundscenes/")])
def test_soundscenes(experiment):
    config = load(experiment)
    assert config.data.layout == "SoundScenes"
    assert (config.data.batch_size, config.text.feature, config.text.width) == (64, "ngrams", 300)
    widths = {expert.name: expert.width for expert in config.experts}
    assert widths.items() <= {"logmel": 128, "modulation": 512}.items()
    assert all(expert.files and not expert.flaky for expert in config.experts)


@pytest.mark.parametrize("experiment", EVERY)
def test_experiments_are_short_and_say_nothing_twice(experiment):
    path = ROOT / "configs" / f"{experiment}.json"
    assert len(path.read_text().splitlines()) <= 10
    own = json.loads(path.read_text())
    rest = {"inherit_from": own.pop("inherit_from")}
    assert rest["inherit_from"].startswith("configs/")
    assert own


@pytest.mark.parametrize("experiment", [*EVERY, *MMT])
def test_what_a_run_writes_down_loads_as_the_same_from_anywhere(experiment, tmp_path, monkeypatch):
    config = load(experiment, custom_args="seed@3+trainer.epochs@2", data_dir=tmp_path / "big")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.raw))
    monkeypatch.chdir(tmp_path)
    again = load_config("config.json")
    assert again == config
    assert again.raw == config.raw
    assert again.for_evaluation() == config.for_evaluation()
    assert "inherit_from" not in config.raw


def test_the_table_of_text_features_is_the_published_one():
    table = json.loads((ROOT / "model" / "text_embedding_models.json").read_text())
    by_width = {
        256: "electra",
        300: "w2v grovle mt_grovle hglmm_300d ngrams",
        384: "minilm-sentence minilm-tokens",
        512: "howto100m_mil_nce t5-small",
        768: "openai openai-gpt gpt2 bert-base-uncased t5-base albert-base-v2 roberta-base "
        "xlnet-base-cased",
        1024: "gpt2-medium t5-large t5-3b t5-11b albert-large-v2 roberta-large xlnet-large-cased "
        "transfo-xl-wt103",
        1280: "gpt2-large ctrl",
        1600: "gpt2-xl gpt2-xl-finetune",
        2048: "albert-xlarge-v2",
        6000: "hglmm_6kd",
    }
    widths = {name: width for width, names in by_width.items() for name in names.split()}
    assert {name: entry["dim"] for name, entry in table.items()} == widths


def test_every_layout_has_a_data_set_file():
    files = (ROOT / "configs" / "datasets").glob("*.json")
    names = {
        json.loads(Path(file).read_text())["data_loader"]["args"]["dataset_name"] for file in files
    }
    assert names == set(DATASETS)
