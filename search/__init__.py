"""Search: an index of clips on disk, what answers a query from it, and the page in a browser."""
