"""Data sets on disk become the tensors of the published system, or an error that helps."""

import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from data_loader import DATASETS, build_dataset
from synthetic import LAYOUTS as SYNTHETIC_LAYOUTS
from synthetic import write_dataset, write_features, write_list
from utils.batches import PlannedBatch, gathered
from utils.config import load_config
from utils.errors import ConfigError, DataError
from utils.reading.pickles import dump_plain, load_plain

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(__file__).resolve().parent / "data"
ARGS = "data_loader.args"
TOP_LEVEL = ("caption_masks", "training_file", "testing_file")
VISUAL = ("imagenet.resnext101_32x48d.0", "r2p1d.r2p1d-ig65m.0", "scene.densenet161.0")


def config_of(made, layout="AudioCaps", packed_dir=None, **overrides):
    """The config of a published experiment, on the data set that was made."""
    name = {
        "AudioCaps": "audiocaps/train-vggish-vggsound",
        "CLOTHO": "clotho/train-vggish-vggsound",
        "QuerYD": "queryd/train-full-ce-only-audio",
        "QuerYDSegments": "querydsegments/train-full-ce-only-audio",
        "ActivityNet": "activity-net/train-full-ce-audio-only",
    }[layout]
    values = {f"{ARGS}.data_dir": str(made.data_dir), f"{ARGS}.packed_dir": packed_dir}
    for key, value in overrides.items():
        values[key if "." in key or key in TOP_LEVEL else f"{ARGS}.{key}"] = value
    return load_config(ROOT / "configs" / f"{name}.json", values)


def pad(rows, places):
    """Cut or fill up with zeros to `places` rows."""
    out = np.zeros((places, rows.shape[1]), np.float32)
    out[: min(places, len(rows))] = rows[:places]
    return out


def naive_experts(made, config, clips):
    """Clip by clip, what a batch must hold."""
    experts, available = {}, {}
    for expert in config.experts:
        values = [made.experts[expert.name].get(clip) for clip in clips]
        empty = np.zeros((0, expert.width), np.float32)
        padded = [
            pad(empty if value is None else np.atleast_2d(value), expert.max_tokens or 1)
            for value in values
        ]
        experts[expert.name] = np.stack(padded) if expert.tokens else np.concatenate(padded)
        available[expert.name] = np.array([value is not None for value in values], np.float32)
    return experts, available


def naive_text(made, config, clips, captions):
    places = config.text.max_tokens
    return np.stack(
        [pad(made.text[clip][c], places) for clip, c in zip(clips, captions, strict=True)]
    )[:, None]


def assert_batch(batch, text, experts, available):
    np.testing.assert_array_equal(batch[0], text)
    assert list(batch[1]) == list(experts) == sorted(experts)
    for name, expected in experts.items():
        assert batch[1][name].dtype == batch[2][name].dtype == torch.float32
        np.testing.assert_array_equal(batch[1][name], expected)
        np.testing.assert_array_equal(batch[2][name], available[name])


def same(first, second):
    return (
        torch.equal(first[0], second[0])
        and all(torch.equal(first[1][name], second[1][name]) for name in first[1])
        and all(torch.equal(first[2][name], second[2][name]) for name in first[2])
    )


@pytest.fixture(scope="module")
def clotho(tmp_path_factory):
    return write_dataset(
        tmp_path_factory.mktemp("data") / "CLOTHO",
        "CLOTHO",
        sizes={"train": 23, "val": 5, "test": 6},
        missing={"audio": [23, 24, 30], "vggsound": [25, 31]},
        tokens=(1, 40),
        words=(2, 30),
        hard_names=True,
    )


class TestReferenceBatches:
    """What the published system makes of a small AudioCaps, byte for byte (by its hash)."""

    CASES = json.loads((DATA / "batches.json").read_text(encoding="utf-8"))

    @staticmethod
    def dataset(case, split, packed_dir):
        overrides = {
            f"{ARGS}.data_dir": str(DATA / "minidata" / "AudioCaps"),
            f"{ARGS}.packed_dir": packed_dir,
            "experts.modalities": ["audio", *VISUAL],
        }
        for key in ("num_test_captions", "fuse_captions", "text_dropout"):
            overrides[f"{ARGS}.{key}"] = case[key]
        path = ROOT / "configs" / "audiocaps" / "train-vggish-vggsound.json"
        return build_dataset(load_config(path, overrides), split)

    @staticmethod
    def assert_equal(tensor, expected, what):
        assert list(tensor.shape) == expected["shape"], what
        found = np.ascontiguousarray(tensor.numpy(), dtype="<f4") + 0.0  # no negative zeros
        assert hashlib.sha256(found.tobytes()).hexdigest() == expected["sha256"], what

    def assert_arrays(self, case, prefix, values):
        compared = 0
        for key, expected in case["arrays"].items():
            if key.startswith(prefix):
                kind, _, expert = key.removeprefix(prefix).partition("/")
                tensor = values[kind][expert] if expert else values[kind]
                self.assert_equal(tensor, expected, key)
                compared += 1
        assert compared >= 3

    @pytest.mark.parametrize("packed", [True, False])
    @pytest.mark.parametrize("name", CASES)
    def test_retrieval_arrays(self, name, packed, tmp_path):
        case = self.CASES[name]
        dataset = self.dataset(case, case["split"], str(tmp_path) if packed else None)
        text, experts, available, masks, clips = dataset.evaluation()
        assert clips == case["retrieval_clips"]
        values = {"text": text, "experts": experts, "ind": available, "query_masks": masks}
        self.assert_arrays(case, "retrieval/", values)

    @pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["clips"]])
    def test_training_batches(self, name):
        """Captions that lost words are left out: they follow other random draws than ours."""
        case = self.CASES[name]
        dataset = self.dataset(case, "train", None)
        indices = [dataset.clips.index(clip) for clip in case["clips"]]
        picked = case["picked_caption"]
        known = [place for place, caption in enumerate(picked) if caption is not None]
        chosen = [indices[place] for place in known], [picked[place] for place in known]
        _, experts, available = dataset.batch(indices, [0] * len(indices))
        text, _, _ = dataset.batch(*chosen)
        self.assert_arrays(case, "batch/", {"text": text, "experts": experts, "ind": available})


class TestBatches:
    @pytest.mark.parametrize("packed_dtype", ["keep", "float16"])
    def test_a_batch_is_what_it_says(self, clotho, tmp_path, packed_dtype):
        config = config_of(clotho, "CLOTHO", str(tmp_path), packed_dtype=packed_dtype)
        dataset = build_dataset(config, "train")
        indices, captions = [5, 0, 22, 5, 7], [0, 4, 2, 3, 1]
        clips = [dataset.clips[index] for index in indices]
        text = naive_text(clotho, config, clips, captions)
        experts, available = naive_experts(clotho, config, clips)
        if packed_dtype == "float16":
            text = text.astype(np.float16)
            experts = {name: value.astype(np.float16) for name, value in experts.items()}
        assert_batch(dataset.batch(indices, captions), text, experts, available)

    def test_several_files_are_joined_along_the_features(self, tmp_path):
        made = write_dataset(
            tmp_path / "AudioCaps",
            experts=("audio", VISUAL[0]),
            missing={VISUAL[0]: [13], "audio": [13 + 1]},
        )
        [average] = [path for name, path in made.files.items() if name == VISUAL[0]]
        draw = np.random.default_rng(1)
        largest = {
            clip: draw.normal(size=(1, 2048)).astype(np.float32)
            for clip in made.experts[VISUAL[0]]
            if clip != made.clips["val"][3]
        }
        write_features(average.with_name("resnext101_32x48d-max.pickle"), largest)
        entry = f"{ARGS}.feat_aggregation.{VISUAL[0].replace('.', '_.')}"
        changes = {"experts.modalities": ["audio", VISUAL[0]], f"{entry}.temporal": "avg-max"}
        config = config_of(made, **changes)
        dataset = build_dataset(config, "val")
        _, experts, available, _, clips = dataset.evaluation()
        assert available[VISUAL[0]].tolist() == [1, 0, 1, 0]
        for row, clip in enumerate(clips):
            both = (made.experts[VISUAL[0]].get(clip), largest.get(clip))
            expected = np.zeros(4096, np.float32)
            if both[0] is not None and both[1] is not None:
                expected = np.concatenate([both[0], both[1][0]])
            np.testing.assert_array_equal(experts[VISUAL[0]][row], expected)

    def test_fused_captions_are_one(self, tmp_path):
        made = write_dataset(
            tmp_path / "QuerYD", "QuerYD", experts=("audio",), words=(1, 40), tokens=(1, 600)
        )
        config = config_of(made, "QuerYD")
        dataset = build_dataset(config, "train")
        clips = dataset.clips
        text = np.stack([pad(np.concatenate(made.text[clip]), 70) for clip in clips])[:, None]
        experts, available = naive_experts(made, config, clips)
        assert_batch(dataset.batch(range(len(clips))), text, experts, available)
        validation = build_dataset(config, "val").evaluation()
        assert validation[0].shape == (4, 1, 70, 300)
        assert validation[3].tolist() == [[1.0]] * 4

    def test_averaged_words_are_one_token(self, clotho):
        config = config_of(clotho, "CLOTHO", **{"experts.text_agg": "avg"})
        dataset = build_dataset(config, "train")
        text, _, _ = dataset.batch([3, 9], [1, 4])
        for row, (clip, caption) in enumerate([(3, 1), (9, 4)]):
            words = clotho.text[dataset.clips[clip]][caption]
            np.testing.assert_allclose(text[row, 0, 0], words.mean(axis=0), atol=1e-6)
        assert text.shape == (2, 1, 21, 300)
        assert not text[:, :, 1:].any()

    def test_wrong_indices_are_no_other_clip(self, clotho):
        dataset = build_dataset(config_of(clotho, "CLOTHO"), "train")
        for indices, captions in (([23], None), ([-1], None), ([0], [5]), ([0], [-1])):
            with pytest.raises(IndexError):
                dataset.batch(indices, captions)

    def test_captions_are_given_as_text(self, clotho):
        dataset = build_dataset(config_of(clotho, "CLOTHO"), "test")
        for clip in dataset.clips:
            assert dataset.captions(clip) == [" ".join(line) for line in clotho.captions[clip]]
        with pytest.raises(KeyError):
            dataset.captions(clotho.clips["train"][0])

    def test_the_identity_says_what_was_read(self, clotho):
        identity = build_dataset(config_of(clotho, "CLOTHO"), "test").identity
        assert json.loads(json.dumps(identity)) == identity
        data = clotho.files["audio"].read_bytes()
        assert identity["features"]["aggregated_audio/vggish-raw.hickle"] == {
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        lists = hashlib.sha256(clotho.files["test list"].read_bytes()).hexdigest()
        assert identity["split_list"] == {"file": "test_list.txt", "sha256": lists}


class TestEvaluation:
    def test_arrays_of_a_whole_split(self, clotho):
        config = config_of(clotho, "CLOTHO", num_test_captions=7)
        text, experts, available, masks, clips = build_dataset(config, "test").evaluation()
        assert clips == clotho.clips["test"]
        assert text.shape == (6, 7, 21, 300)
        assert masks.tolist() == [[1.0] * 5 + [0.0] * 2] * 6
        assert not text[:, 5:].any()
        for caption in range(5):
            expected = naive_text(clotho, config, clips, [caption] * 6)
            np.testing.assert_array_equal(text[:, caption], expected[:, 0])
        assert_batch((text, experts, available), text, *naive_experts(clotho, config, clips))
        assert min(available["audio"].min(), available["vggsound"].min()) == 0

    def test_validation_takes_the_first_caption(self, clotho):
        config = config_of(clotho, "CLOTHO")
        text, _, _, masks, clips = build_dataset(config, "val").evaluation()
        np.testing.assert_array_equal(text, naive_text(clotho, config, clips, [0] * 5))
        assert masks.shape == (5, 1)


class TestEpochs:
    @staticmethod
    def epoch(made, epoch=2, seed=7, *, batch_size=8, first_batch=0, share=(0, 1), **overrides):
        dataset = build_dataset(
            config_of(made, "CLOTHO", batch_size=batch_size, **overrides), "train"
        )
        return list(dataset.epoch(epoch, seed, first_batch=first_batch, share=share))

    def test_every_clip_comes_once(self, clotho):
        dataset = build_dataset(config_of(clotho, "CLOTHO", batch_size=8), "train")
        batches = list(dataset.epoch(0, 0))
        assert dataset.batches_per_epoch == len(batches) == 3
        assert [len(batch[0]) for batch in batches] == [8, 8, 7]
        first_token = torch.cat([batch[1]["audio"][:, 0, 0] for batch in batches])
        expected = [clotho.experts["audio"][clip][0, 0] for clip in dataset.clips]
        assert sorted(first_token.tolist()) == sorted(map(float, expected))
        places = torch.cat([batch[3] for batch in batches])  # of the clips in the split
        assert first_token.tolist() == [float(expected[place]) for place in places]

    @pytest.mark.parametrize("text_dropout", [0.0, 0.7])
    def test_an_epoch_is_the_same_however_it_is_made(self, clotho, tmp_path, text_dropout):
        whole = self.epoch(clotho, text_dropout=text_dropout)
        again = {
            "packed": {"packed_dir": str(tmp_path)},
            "workers": {"num_workers": 4},
        }
        for how in again.values():
            other = self.epoch(clotho, text_dropout=text_dropout, **how)
            assert len(other) == len(whole)
            assert all(map(same, whole, other))
        resumed = self.epoch(clotho, text_dropout=text_dropout, first_batch=1)
        assert len(resumed) == 2
        assert all(map(same, whole[1:], resumed))
        for changed in ({"epoch": 3}, {"seed": 8}):
            other = self.epoch(clotho, text_dropout=text_dropout, **changed)
            assert not same(whole[0], other[0])

    def test_words_are_drawn_anew_in_every_batch(self, tmp_path):
        made = write_dataset(
            tmp_path / "CLOTHO",
            "CLOTHO",
            sizes={"train": 16, "val": 4, "test": 4},
            words=(9, 9),
            captions_per_clip={"train": 1},
        )
        batches = self.epoch(made, text_dropout=1.0)
        first, second = ((text != 0).any(dim=-1).sum(dim=-1) for text, *_ in batches)
        assert not torch.equal(first, second)

    def test_planned_batches_are_gathered_later(self, clotho):
        dataset = build_dataset(config_of(clotho, "CLOTHO", batch_size=8), "train")
        planned = list(dataset.epoch(2, 7, first_batch=1, planned=True))
        assert {type(batch) for batch in planned} == {PlannedBatch}
        whole = self.epoch(clotho, first_batch=1)
        assert all(map(same, whole, map(gathered, planned)))
        assert len(planned) == len(whole)

    def test_batches_with_drawn_words_are_never_planned(self, clotho):
        config = config_of(clotho, "CLOTHO", batch_size=8, text_dropout=0.7)
        batches = list(build_dataset(config, "train").epoch(2, 7, planned=True))
        assert not [batch for batch in batches if isinstance(batch, PlannedBatch)]
        assert all(map(same, self.epoch(clotho, text_dropout=0.7), batches))

    def test_batches_made_ahead_for_another_device_are_the_same(self, clotho):
        """The meta device takes the way of a GPU up to its memory."""
        dataset = build_dataset(config_of(clotho, "CLOTHO", batch_size=8), "train")
        shapes = [batch[0].shape for batch in dataset.epoch(0, 0)]
        there = list(dataset.epoch(0, 0, device="meta"))
        assert [batch[0].shape for batch in there] == shapes
        assert {tensor.device.type for batch in there for tensor in batch[1].values()} == {"meta"}

    @pytest.mark.parametrize("text_dropout", [0.0, 0.7])
    @pytest.mark.parametrize("ranks", [2, 3])
    def test_ranks_share_the_same_batches(self, clotho, ranks, text_dropout):
        whole = self.epoch(clotho, text_dropout=text_dropout)
        shares = [
            self.epoch(clotho, text_dropout=text_dropout, share=(rank, ranks))
            for rank in range(ranks)
        ]
        for number, (text, experts, available, clips) in enumerate(whole):
            parts = [share[number] for share in shares]
            assert torch.equal(torch.cat([part[0] for part in parts]), text)
            assert torch.equal(torch.cat([part[3] for part in parts]), clips)
            for name in experts:
                assert torch.equal(torch.cat([part[1][name] for part in parts]), experts[name])
                assert torch.equal(torch.cat([part[2][name] for part in parts]), available[name])

    def test_a_last_clip_alone_is_left_out_and_said_once(self, clotho, caplog):
        dataset = build_dataset(config_of(clotho, "CLOTHO", batch_size=11), "train")
        with caplog.at_level(logging.INFO):
            assert [len(batch[0]) for batch in dataset.epoch(0, 0)] == [11, 11]
            list(dataset.epoch(1, 0))
        assert caplog.text.count("left out") == 1

    def test_drop_last(self, clotho):
        assert [len(b[0]) for b in self.epoch(clotho, drop_last=True)] == [8, 8]

    @staticmethod
    def captions_seen(dataset, made, epochs=40):
        """Which captions of each clip training brought, told apart by their words."""
        known = {
            pad(words, 21).tobytes(): (clip, caption)
            for clip in dataset.clips
            for caption, words in enumerate(made.text[clip])
        }
        seen = {clip: set() for clip in dataset.clips}
        for epoch in range(epochs):
            for text, *_ in dataset.epoch(epoch, 0):
                for row in text[:, 0].numpy():
                    clip, caption = known[row.tobytes()]
                    seen[clip].add(caption)
        return seen

    def test_every_caption_comes(self, clotho):
        dataset = build_dataset(config_of(clotho, "CLOTHO"), "train")
        assert set(map(frozenset, self.captions_seen(dataset, clotho).values())) == {
            frozenset(range(5))
        }

    def test_training_can_be_restricted_to_the_first_captions(self, clotho):
        dataset = build_dataset(config_of(clotho, "CLOTHO", restrict_train_captions=2), "train")
        assert all(seen == {0, 1} for seen in self.captions_seen(dataset, clotho).values())

    def test_training_follows_caption_masks(self, tmp_path):
        made = write_dataset(tmp_path / "CLOTHO", "CLOTHO")
        draw = np.random.default_rng(0)
        masks = {clip: [1, *draw.integers(0, 2, 4).tolist()] for clip in made.clips["train"]}
        dump_plain(masks, made.root / "masks.pkl")
        config = config_of(made, "CLOTHO", caption_masks="masks.pkl")
        seen = self.captions_seen(build_dataset(config, "train"), made)
        assert seen == {clip: set(np.flatnonzero(mask)) for clip, mask in masks.items()}
        build_dataset(config, "val")  # masks are for training alone
        config = config_of(made, "CLOTHO", caption_masks="masks.pkl", restrict_train_captions=2)
        seen = self.captions_seen(build_dataset(config, "train"), made)
        assert seen == {clip: set(np.flatnonzero(mask[:2])) for clip, mask in masks.items()}

    @pytest.mark.parametrize("split", ["val", "test"])
    def test_no_words_are_left_out_where_models_are_scored(self, clotho, split):
        found = []
        for share in (0.0, 0.9):
            config = config_of(clotho, "CLOTHO", text_dropout=share)
            dataset = build_dataset(config.for_evaluation() if split == "test" else config, split)
            found.append((dataset.evaluation()[0], *(text for text, *_ in dataset.epoch(1, 0))))
        assert all(map(torch.equal, *map(tensors, found)))


def tensors(values):
    return [torch.as_tensor(value) for value in values]


class TestLayouts:
    @pytest.mark.parametrize("hard_names", [False, True])
    @pytest.mark.parametrize(
        ("layout", "split", "experts"),
        [
            ("AudioCaps", "test", ("audio", "vggsound")),
            ("CLOTHO", "test", ("audio", "vggsound")),
            ("QuerYD", "test", ("audio",)),
            ("QuerYDSegments", "test", ("audio",)),
            ("ActivityNet", "val1", ("audio",)),
        ],
    )
    def test_every_split_of_every_layout_opens(self, tmp_path, layout, split, experts, hard_names):
        if layout == "ActivityNet":
            hard_names = False
        made = write_dataset(tmp_path / layout, layout, experts=experts, hard_names=hard_names)
        config = config_of(made, layout)
        for name, clips in made.clips.items():
            dataset = build_dataset(config, name)
            assert dataset.clips == clips
            expected = naive_experts(made, config, clips[:2])
            text, found, available = dataset.batch([0, 1])
            assert_batch((text, found, available), text, *expected)
        assert split in made.clips

    def test_the_table_names_every_layout(self):
        assert sorted(DATASETS) == sorted(SYNTHETIC_LAYOUTS)

    def test_captions_may_lie_one_folder_up(self, tmp_path):
        made = write_dataset(tmp_path / "AudioCaps")
        made.files["captions"].rename(made.root / "raw-captions.pkl")
        assert len(build_dataset(config_of(made), "train")) == 12

    def test_a_part_of_the_training_list_brings_its_validation_list(self, tmp_path):
        made = write_dataset(tmp_path / "AudioCaps")
        write_list(made.root / "train_list_25.txt", made.clips["train"][:3])
        write_list(made.root / "filtered_val_list_25.txt", made.clips["val"][1:3])
        write_list(made.root / "other_test.txt", made.clips["val"][:1])
        files = {"training_file": "train_list_25.txt", "testing_file": "other_test.txt"}
        config = config_of(made, **files)
        assert build_dataset(config, "train").clips == made.clips["train"][:3]
        assert build_dataset(config, "val").clips == made.clips["val"][1:3]
        assert build_dataset(config, "test").clips == made.clips["val"][:1]
        other = config_of(made, training_file="filtered_val_list_25.txt")
        assert build_dataset(other, "val").clips == made.clips["val"]

    def test_lists_of_another_data_set_are_ignored_aloud(self, tmp_path, caplog):
        made = write_dataset(tmp_path / "QuerYD", "QuerYD")
        config = config_of(made, "QuerYD", training_file="train_list_10.txt")
        assert build_dataset(config, "train").clips == made.clips["train"]
        assert build_dataset(config, "val").clips == made.clips["val"]
        (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert warning.getMessage() == (
            "training_file train_list_10.txt is ignored: QuerYD has train_list.txt alone"
        )

    def test_an_unknown_split_names_the_known_ones(self, clotho):
        config = config_of(clotho, "CLOTHO")
        with pytest.raises(ConfigError, match=r"no split 'tset'; did you mean 'test'\? .*train"):
            build_dataset(config, "tset")

    def test_a_data_set_and_an_expert_of_ones_own(self, tmp_path):
        made = write_dataset(
            tmp_path / "Mine",
            "CLOTHO",
            experts=("audio", "hum"),
            widths={"hum": 7},
            files={"hum": "my/hum.pickle"},
        )
        config = config_of(
            made,
            "CLOTHO",
            dataset_name="Mine",
            max_tokens={"text": 21, "audio": 31, "hum": 5},
            **{
                f"{ARGS}.layout": "CLOTHO",
                "experts.modalities": ["hum", "audio"],
                f"{ARGS}.feat_aggregation.hum": {
                    "temporal": "vlad",
                    "file": "my/hum.pickle",
                    "width": 7,
                },
                "arch.args.vlad_clusters.hum": 2,
            },
        )
        dataset = build_dataset(config, "train")
        assert list(dataset.batch([0])[1]) == ["audio", "hum"]
        assert dataset.batch([0])[1]["hum"].shape == (1, 5, 7)
        made.files["hum"].unlink()
        with pytest.raises(DataError, match=r"hum\.pickle is missing; put it there"):
            build_dataset(config, "train")


class TestBadInput:
    """Each mistake is an error that names the file, the clip and what to do."""

    @pytest.fixture
    def made(self, tmp_path):
        return write_dataset(tmp_path / "AudioCaps", hard_names=True)

    @staticmethod
    def error(made, split="train", kind=DataError, **overrides):
        with pytest.raises(kind) as caught:
            build_dataset(config_of(made, **overrides), split)
        return str(caught.value)

    @pytest.mark.parametrize("what", ["audio", "vggsound", "text", "captions", "train list"])
    def test_a_missing_file_says_how_to_fetch_it(self, made, what):
        made.files[what].unlink()
        place = f"--dataset AudioCaps --data_dir {made.data_dir.parent}"
        fetch = f"fetch it with: python misc/sync_experts.py {place}"
        assert self.error(made) == f"{made.files[what]} is missing; {fetch}"

    @pytest.mark.parametrize("kind", ["a folder", "a link that leads nowhere"])
    def test_what_is_no_file_is_not_called_missing(self, made, kind):
        place = made.files["audio"]
        place.unlink()
        place.mkdir() if kind == "a folder" else place.symlink_to(place)
        assert kind in self.error(made)

    @pytest.mark.parametrize("use", [lambda d: d.evaluation(), lambda d: next(d.epoch(0, 0))])
    def test_a_packed_file_cut_short_in_use_is_an_error(self, made, tmp_path, use):
        dataset = build_dataset(config_of(made, packed_dir=str(tmp_path / "packed")), "train")
        os.truncate(dataset.opened[-1].file.path, 100)
        with pytest.raises(DataError, match="was cut short"):
            use(dataset)

    def test_all_missing_files_are_named_at_once(self, made):
        for what in ("audio", "text"):
            made.files[what].unlink()
        message = self.error(made)
        assert f"{made.files['audio']}, {made.files['text']} are missing; fetch" in message

    @pytest.mark.parametrize(
        ("data_dir", "flag"), [("data", ""), ("else where", " --data_dir 'else where'")]
    )
    def test_sound_scenes_are_made_not_fetched(self, data_dir, flag, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config = load_config("configs/soundscenes/train-only-logmel.json", data_dir=data_dir)
        with pytest.raises(DataError) as caught:
            build_dataset(config, "train")
        assert str(caught.value).endswith(f"make it with: python misc/make_soundscenes.py{flag}")

    def test_an_empty_list_and_a_clip_listed_twice(self, made):
        first = made.clips["train"][0]
        for names, message in (([], "holds no names"), ([first] * 2, "second time")):
            write_list(made.files["train list"], names)
            found = self.error(made)
            assert str(made.files["train list"]) in found
            assert message in found

    def test_clips_nobody_knows(self, made):
        strangers = [f"stranger {number}" for number in range(9)]
        write_list(made.files["train list"], made.clips["train"] + strangers)
        message = self.error(made)
        assert message.startswith(f"{made.files['train list']}: 9 clips without text vectors in ")
        assert "'stranger 0', 'stranger 1'" in message
        assert message.endswith("and 4 more")

    def change(self, made, what, change):
        values = load_plain(made.files[what])
        change(values)
        write_features(made.files[what], values)

    def test_a_clip_without_captions(self, made):
        clip = made.clips["train"][4]
        self.change(made, "captions", lambda values: values.pop(clip))
        message = self.error(made)
        assert "1 clip without captions" in message
        assert repr(clip) in message
        assert str(made.files["captions"]) in message
        build_dataset(config_of(made), "val")

    @pytest.mark.parametrize("packed", [True, False])
    def test_a_clip_with_an_empty_list_of_captions(self, made, packed, tmp_path):
        """It may lie in the files, which serve other lists too, but not in a list."""
        clip = made.clips["train"][4]
        for what in ("captions", "text"):
            self.change(made, what, lambda values: values.__setitem__(clip, []))
        place = str(tmp_path / "packed") if packed else None
        with pytest.raises(DataError) as caught:
            build_dataset(config_of(made, packed_dir=place), "train")
        assert f"1 clip without captions in {made.files['captions']}" in str(caught.value)
        assert repr(clip) in str(caught.value)
        build_dataset(config_of(made, packed_dir=place), "val").evaluation()

    def test_captions_and_text_vectors_of_different_numbers(self, made):
        clip = made.clips["val"][1]
        self.change(made, "captions", lambda values: values[clip].pop())
        message = self.error(made, "val")
        assert "differ in number" in message
        assert repr(clip) in message

    @pytest.mark.parametrize("what", ["text", "captions"])
    def test_an_empty_caption(self, made, what):
        clip = made.clips["val"][2]
        nothing = np.zeros((0, 300), np.float32) if what == "text" else []
        self.change(made, what, lambda values: values[clip].__setitem__(3, nothing))
        message = self.error(made, "val")
        assert f"an empty caption (no words) in {made.files[what]}" in message
        assert repr(clip) in message
        build_dataset(config_of(made), "test")

    def test_a_missing_expert_that_training_needs(self, tmp_path):
        made = write_dataset(tmp_path / "AudioCaps", missing={"vggsound": [2, 5, 13]})
        message = self.error(made)
        assert "2 clips without features of expert 'vggsound'" in message
        assert "'clip002_2000', 'clip005_5000'" in message
        assert "feat_aggregation.vggsound.flaky to true" in message
        assert build_dataset(config_of(made), "val").evaluation()[2]["vggsound"].sum() == 3

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_a_clip_without_any_expert(self, tmp_path, split):
        missing = {"vggsound": [2, 13], "audio": [2, 13]}
        made = write_dataset(tmp_path / "AudioCaps", missing=missing)
        message = self.error(made, split)
        clip = {"train": "clip002_2000", "val": "clip013_13000"}[split]
        assert f"without features of any expert (audio, vggsound): {clip!r}" in message
        assert build_dataset(config_of(made), "test").clips == made.clips["test"]

    def test_features_of_another_width(self, tmp_path):
        made = write_dataset(tmp_path / "AudioCaps", widths={"audio": 127})
        message = self.error(made)
        assert str(made.files["audio"]) in message
        assert "expert 'audio' has features of width 127, but the config says 128" in message

    def test_text_vectors_of_another_width(self, tmp_path):
        made = write_dataset(tmp_path / "AudioCaps", text_dim=200)
        assert "text vectors of width 200, but text_feat 'w2v' has width 300" in self.error(made)

    def test_several_vectors_of_an_averaged_expert(self, tmp_path):
        made = write_dataset(tmp_path / "AudioCaps", experts=("audio", VISUAL[1]))
        clip = made.clips["train"][3]
        several = np.ones((2, 512), np.float32)
        self.change(made, VISUAL[1], lambda values: values.__setitem__(clip, several))
        message = self.error(made, **{"experts.modalities": ["audio", VISUAL[1]]})
        assert f"more than one vector of the averaged expert {VISUAL[1]!r}" in message
        assert repr(clip) in message

    def test_features_that_are_no_numbers(self, made):
        clip = made.clips["train"][3]
        values = dict(made.experts["audio"])
        values[clip] = values[clip] * np.float32(np.inf)
        write_features(made.files["audio"], values)
        message = self.error(made)
        assert "expert 'audio'" in message
        assert repr(clip) in message

    def test_an_expert_whose_place_is_not_known(self, tmp_path):
        made = write_dataset(tmp_path / "AudioCaps", experts=("audio",))
        changes = {"experts.modalities": ["audio", "ocr"], f"{ARGS}.max_tokens.ocr": 4}
        message = self.error(made, kind=ConfigError, **changes)
        assert "AudioCaps knows no place for expert 'ocr'" in message
        assert "feat_aggregation.ocr.file" in message

    @pytest.mark.parametrize("size", [1, 2])
    def test_no_batch_of_two_clips(self, tmp_path, size):
        made = write_dataset(tmp_path / "AudioCaps", sizes={"train": size, "val": 1, "test": 1})
        config = config_of(made, drop_last=size == 2)
        with pytest.raises(DataError, match="no batch of at least two clips"):
            build_dataset(config, "train")
        assert len(build_dataset(config, "val").evaluation()[4]) == 1

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda masks: masks.pop("clip001_1000"), "1 clip without a caption mask"),
            (lambda masks: masks.update(clip001_1000=[1]), "not as long as"),
            (lambda masks: masks.update(clip001_1000=[0] * 5), "leaves no caption"),
        ],
    )
    def test_caption_masks_that_do_not_fit(self, tmp_path, change, message):
        made = write_dataset(tmp_path / "CLOTHO", "CLOTHO")
        masks = {clip: [1] * 5 for clip in made.clips["train"]}
        change(masks)
        dump_plain(masks, made.root / "masks.pkl")
        with pytest.raises(DataError, match=message) as caught:
            build_dataset(config_of(made, "CLOTHO", caption_masks="masks.pkl"), "train")
        assert "'clip001_1000'" in str(caught.value)


@pytest.mark.gpu
class TestOnAGpu:
    @pytest.mark.parametrize("feature_device", ["auto", "host", "device"])
    def test_batches_are_the_same(self, clotho, feature_device):
        config = config_of(clotho, "CLOTHO", batch_size=8, feature_device=feature_device)
        expected = list(build_dataset(config, "train").epoch(1, 2))
        moved = build_dataset(config, "train").to("cuda")
        there = list(map(gathered, moved.epoch(1, 2, planned=True)))
        assert len(there) == len(expected)
        for first, second in zip(expected, there, strict=True):
            assert second[0].is_cuda
            back = [second[0].cpu(), *({n: t.cpu() for n, t in d.items()} for d in second[1:3])]
            assert same(first, [*back, second[3].cpu()])
