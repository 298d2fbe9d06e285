"""Text encoders: captions and queries become vectors, the same for both.

encoder = build_encoder({"type": "SentenceEncoder", "args": {}})
vectors = encoder.encode(["a dog barks while rain falls"])   # a list of (n_words, width)
"""

from text.build import ENCODERS, build_encoder
from text.encoder import TextEncoder, WordlessTextError, require_equal

__all__ = ["ENCODERS", "TextEncoder", "WordlessTextError", "build_encoder", "require_equal"]
