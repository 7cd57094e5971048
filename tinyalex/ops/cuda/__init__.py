"""The operations on CuPy arrays: one CUDA C file per operation, and beside it the Python that launches it.

The public functions are those of ``tinyalex.ops``: they check the arguments and come here when the arrays
are CuPy's.  A kernel's header says what it reads and writes and the least bytes that it must move
(`tinyalex.measure.traffic` has the same as functions).  Arrays are (C,H,W,N): neighbouring threads work on
neighbouring images, so that a warp's loads and stores are contiguous.  No kernel needs shared memory or
atomics: where several windows add to one pixel, the pixel's thread gathers them.
"""
