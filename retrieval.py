"""Search recordings from a notebook: `from retrieval import Retriever`; docs/search.md."""

from search.retriever import Result, Results, Retriever

__all__ = ["Result", "Results", "Retriever"]
