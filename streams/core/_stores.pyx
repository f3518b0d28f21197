# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled twin of what a store in memory does with each commit batch; see store.py."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_SetItem


def apply(store, control, dict changes):
    """See store._apply."""
    cdef bytes key
    for key, value in changes.items():
        if PyBytes_GET_SIZE(key) and PyBytes_AS_STRING(key)[0] == b"~":
            place = control
            if place is None:
                continue
        else:
            place = store
        if value is None:
            place.pop(key, None)
        else:
            PyDict_SetItem(place, key, value)
