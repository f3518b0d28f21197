"""Asking memory for what will be needed in a moment, where the compiler can say so; telling the collector what it need not
look at: in no cycle, and too many; and memory of our own for tables.
"""

cdef extern from "Python.h":
    void untrack "PyObject_GC_UnTrack"(void* thing)  # of a kind that it looks at; once more does nothing
    # Borrowed: to ask for a thing without a look at it.
    void* list_item "PyList_GET_ITEM"(object items, Py_ssize_t at)
    void* tuple_item "PyTuple_GET_ITEM"(object items, Py_ssize_t at)
    # The interpreter's own, without its pools, so that memory tracing sees it.
    void* PyMem_RawCalloc(size_t count, size_t size)
    void* PyMem_RawRealloc(void* memory, size_t size)
    void PyMem_RawFree(void* memory)

cdef extern from *:
    """
    #if defined(__GNUC__)
    #define rookery_prefetch(address) __builtin_prefetch(address)
    #else
    #define rookery_prefetch(address) ((void)(address))
    #endif
    """
    void rookery_prefetch(const void* address) noexcept

cdef enum:
    LINE = 64  # bytes that memory gives at once


cdef inline void prefetch(const void* address, int lines) noexcept:
    cdef int line
    for line in range(lines):
        rookery_prefetch(<const char*>address + LINE * line)
