"""ActivityNet, whose second half of validation serves as its test split."""

from __future__ import annotations

from typing import ClassVar

from data_loader.base_dataset import BaseDataset


class ActivityNet(BaseDataset):
    """10,009 / 4,917 clips (train, val1); all captions of a clip are fused into one."""

    archive = "activity-net"
    older_archive_sha1 = "2901046fa6a3d6f6393ee0047818e960fcfabd69"
    split_lists: ClassVar[dict[str, str]] = {
        "train": "train_list.txt",
        "val": "val_list.txt",
        "val1": "val_1_list.txt",
    }
    chosen_lists: ClassVar[tuple[str, ...]] = ("training_file",)
    captions_file = "raw-captions-train-val_1.pkl"
    text_folder = "aggregated_text_feats"
    expert_files: ClassVar[dict[str, str]] = {
        "audio": "aggregated_audio/vggish-audio-raw.pickle",
        "face": "aggregated_facefeats_25fps_256px_stride1/face-avg.pickle",
        "ocr": "aggregated_ocr_feats/ocr-w2v.pkl",
        "speech": "aggregated_speech/goog_w2v-speech-raw.pickle",
    }
