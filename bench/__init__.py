"""Measurements: each prints what it did, and voids itself when the totals are wrong. Never part of the tests."""
