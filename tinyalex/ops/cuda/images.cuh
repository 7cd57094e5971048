// A thread takes V neighbouring images, which lie side by side: one load,
// one store of 16 bytes, and one reckoning of the place for all of them.  N and the grid's x count groups of V.
#ifndef IMAGES
#define IMAGES
#ifndef V
#define V 1
#endif
struct alignas(sizeof(REAL) * V) Images {
    REAL of[V];
};
#endif
