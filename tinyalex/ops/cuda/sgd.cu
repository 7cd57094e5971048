// The paper's update rule (section 5), in place:
//
//   v = momentum * v - decay_rate * w - rate * g      w = w + v        decay_rate = decay * rate
//
// reads   w, v, g
// writes  w, v
// least   4 * 5*size bytes
// grid    (ceil(size / block))
extern "C" __global__ void sgd(REAL *w, REAL *v, const REAL *g, int size, REAL momentum, REAL rate,
                               REAL decay_rate)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= size)
        return;
    REAL velocity = momentum * v[t] - decay_rate * w[t] - rate * g[t];
    v[t] = velocity;
    w[t] += velocity;
}
