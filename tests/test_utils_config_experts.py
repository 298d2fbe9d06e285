"""The experts of a configuration: their files and widths, by the published rules or one's own."""

import pytest

from utils.config import ExpertConfig, load_config

CE = "configs/clotho/train-vggish-vggsound.json"
TABLE = "data_loader.args.feat_aggregation"
MINE = f"{TABLE}.mine"


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
    entry = {"temporal": "avg-max", "type": "logits", "feat_dims": {"logits": 10}, "fps": 5}
    entry |= {"num_segments": 3, "stride": None, "aggregate-axis": 1}
    found = expert("new-type.my-net.0", {f"{TABLE}.new-type_.my-net_.0": entry})
    folder = "aggregated_new_type_5fps_num_segments3"
    assert found.files == tuple(f"{folder}/my-net-{one}-logits.pickle" for one in ("avg", "max"))
    assert found.width == 20


def test_face_takes_its_width_from_face_dim():
    found = expert("face", {"experts.face_dim": 512})
    assert found == ExpertConfig("face", 512, False, None, True, None)


def test_an_expert_of_ones_own_needs_entries_only():
    entry = {"temporal": "vlad", "file": "mine/f.hickle", "width": 7, "flaky": True}
    clusters = {"arch.args.vlad_clusters.mine": 3, "arch.args.ghost_clusters.mine": 1}
    found = expert("mine", {MINE: entry, "data_loader.args.max_tokens.mine": 4, **clusters})
    assert found == ExpertConfig("mine", 7, True, 4, True, ("mine/f.hickle",))
    averaged = expert("mine", {MINE: {"temporal": "avg", "file": "f.pkl", "width": 7}})
    assert averaged == ExpertConfig("mine", 7, False, None, False, ("f.pkl",))
