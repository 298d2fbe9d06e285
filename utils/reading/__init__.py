"""Untrusted files read as data: pickles, checkpoints, HDF5 and archives."""
