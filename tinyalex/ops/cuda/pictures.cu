// Pictures, as they lie on the disk, made into a batch: cut out, mirrored, less the mean picture, plus a colour.

#ifndef RUN
#define RUN 32
#endif

// images[c,i,j,m] = (pixels[n,c,y+i,x+j] - mean[c,i,j] + noise[c,m]) / divisor, with n = m % N and
// (y, x, mirrored) = windows[m]; for a mirrored one x + crop-1-j in place of x + j.
// The four operations are the host's, in its order (augment.to_batch): so are the bits.
//
// A thread makes RUN neighbouring pixels of one image's row: a warp's stores are contiguous, and the bytes that
// one thread reads lie side by side, in the cache once the first of them has been read.
//
// reads   pixels (N,C,S,S), windows (M,3), mean (C,crop,crop), noise (C,M)
// writes  images (C,crop,crop,M)
// least   (1+4) * C*crop*crop*M bytes
// grid    (ceil(M * ceil(crop / RUN) / block), crop, C)
extern "C" __global__ void to_batch(REAL *images, const unsigned char *pixels, const int *windows,
                                    const REAL *mean, const REAL *noise, int M, int N, int S, int crop,
                                    REAL divisor)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    int m = t % M, j = t / M * RUN, i = blockIdx.y, c = blockIdx.z;
    if (j >= crop)
        return;
    int y = windows[3 * m], x = windows[3 * m + 1], mirrored = windows[3 * m + 2];
    const unsigned char *pixel = pixels + ((long long)(m % N) * gridDim.z + c) * S * S + (y + i) * S + x;
    pixel += mirrored ? crop - 1 - j : j;
    int step = mirrored ? -1 : 1;
    long long place = ((long long)c * crop + i) * crop + j;
    REAL colour = noise[(long long)c * M + m];
    for (int k = 0; k < RUN && j + k < crop; k++, pixel += step, place++)
        images[place * M + m] = ((REAL)*pixel - mean[place] + colour) / divisor;
}
