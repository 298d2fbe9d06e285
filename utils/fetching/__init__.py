"""Published files: what there is, fetching it, and the record of what was fetched."""
