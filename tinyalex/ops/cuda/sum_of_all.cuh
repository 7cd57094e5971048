// The sum over a block's threads.
//
// Every thread shows its number to the others.  Then half of them add the other half's, half of these again,
// and so on: always in the same order, so that the same numbers give the same bits.
#ifndef SUM_OF_ALL
#define SUM_OF_ALL
#ifndef TEAM
#define TEAM 128  // threads of a block
#endif

template <typename T> static __device__ T sum_of_all(T *shown, T mine)
{
    shown[threadIdx.x] = mine;
    for (int half = TEAM / 2; half; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half)
            shown[threadIdx.x] += shown[threadIdx.x + half];
    }
    return shown[threadIdx.x];  // the sum, to thread 0
}
#endif
