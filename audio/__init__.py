"""From recordings to experts: reading sounds, and the extractors that make tokens of them.

`read(path, rate)` brings any sound; `audio.extractors.EXTRACTORS` holds what makes features of it.
"""

from audio.listing import Sound, list_sounds
from audio.reading import read, read_blocks, sound_length

__all__ = ["Sound", "list_sounds", "read", "read_blocks", "sound_length"]
