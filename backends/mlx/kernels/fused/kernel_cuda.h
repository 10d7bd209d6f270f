// What the kernels' bodies ask of CUDA.
#define FWT_FUNCTION __device__ inline
#define FWT_DEVICE
#define FWT_SHARED __shared__
#define FWT_SHARED_POINTER
#define FWT_BARRIER __syncthreads()
#define FWT_RSQRT(x) rsqrtf(x)
