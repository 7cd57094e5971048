"""The operations on CuPy arrays: CUDA C, a file or two per operation, and the Python that launches it.

The public functions are those of ``tinyalex.ops``: they check the arguments and come here when the arrays
are CuPy's.  A kernel's header says what it reads and writes and the least bytes that it must move
(`tinyalex.measure.traffic` has the same as functions).  Arrays are (C,H,W,N): neighbouring threads work on
neighbouring images, so that a warp's loads and stores are contiguous.  No kernel needs atomics: where several
windows add to one pixel, the pixel's thread gathers them.
"""
