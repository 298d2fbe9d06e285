"""Results to trust: stored ranks, statistics, tables, pages, and the audit of a data set."""
