// What the kernels' bodies ask of Metal.
#define FWT_FUNCTION inline
#define FWT_DEVICE device
#define FWT_SHARED threadgroup
#define FWT_SHARED_POINTER threadgroup
#define FWT_BARRIER \
  metal::threadgroup_barrier(metal::mem_flags::mem_device | metal::mem_flags::mem_threadgroup)
#define FWT_RSQRT(x) metal::rsqrt(x)
