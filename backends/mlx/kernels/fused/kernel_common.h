// What both kernels share. The language above says what a barrier and a shared array are.
//
// Written in what C++, Metal and CUDA have in common: no double, no captures, no recursion; every
// pointer names its address space; shared arrays stand at the top of a kernel, of constant size.

// partial sums into which a sum over the threads of a group is gathered first
#define FWT_PARTS 8

// max(x, 0), NaN kept
FWT_FUNCTION float fwt_relu(float x) { return x <= 0.0f ? 0.0f : x; }

FWT_FUNCTION int fwt_least(int a, int b) { return a < b ? a : b; }

// The sum of the parts of all threads, the same bits for each of them, always in the same order.
// It holds two barriers: what was written before it may be read by every thread after it.
FWT_FUNCTION float fwt_sum(FWT_SHARED_POINTER float* scratch, float part, int place, int places) {
  const int parts = fwt_least(FWT_PARTS, places);
  scratch[place] = part;
  FWT_BARRIER;
  if (place < parts) {
    float found = 0.0f;
    for (int n = place; n < places; n += parts) found += scratch[n];
    scratch[places + place] = found;
  }
  FWT_BARRIER;
  float found = 0.0f;
  for (int n = 0; n < parts; ++n) found += scratch[places + n];
  return found;
}
