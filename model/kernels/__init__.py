"""Faster ways to the same numbers; each file begins with the plain formula that it equals."""
