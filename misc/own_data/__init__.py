"""Data sets of one's own: tables of captions, embeddings made elsewhere, the published layout."""
