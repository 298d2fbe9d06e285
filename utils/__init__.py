"""Shared by two or more packages; imports nothing else of the project."""
