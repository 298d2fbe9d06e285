"""The extractors by name; one of your own is a class and a line here."""

from __future__ import annotations

from audio.aisfx import Aisfx
from audio.builtin import LogMel, Modulation
from audio.extractor import Extractor
from audio.vggish import VGGish
from audio.vggsound import VGGSound

EXTRACTORS: dict[str, type[Extractor]] = {
    extractor.name: extractor
    for extractor in (
        LogMel,
        Modulation,
        VGGish,
        VGGSound,
        Aisfx,
    )
}
