// The bits of a thread that make numbers too small for full precision zero, one thread at a time:
// both functions are called on each worker by OpenMP, with a pointer to what the caller had.

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
using Bits = std::uint32_t;
static const Bits FLUSH = 0x8040;  // results to zero, and arguments
static Bits read() { return _mm_getcsr(); }
static void write(Bits bits) { _mm_setcsr(bits); }
#elif defined(__aarch64__)
using Bits = std::uint64_t;
static const Bits FLUSH = Bits(1) << 24;
static Bits read() {
  Bits bits;
  __asm__ __volatile__("mrs %0, fpcr" : "=r"(bits));
  return bits;
}
static void write(Bits bits) { __asm__ __volatile__("msr fpcr, %0" ::"r"(bits)); }
#else
using Bits = std::uint32_t;
static const Bits FLUSH = 0;
static Bits read() { return 0; }
static void write(Bits) {}
#endif

#if defined(_WIN32)
#define PUBLIC extern "C" __declspec(dllexport)
#else
#define PUBLIC extern "C"
#endif

static thread_local Bits before = 0;
static thread_local bool flushed = false;

PUBLIC void fwt_flush(void*) {
  if (!flushed) before = read();
  flushed = true;
  write(read() | FLUSH);
}

// A worker that was started in between has nothing to go back to: it gets the caller's bits.
PUBLIC void fwt_restore(void* caller) {
  const Bits own = flushed ? before : Bits(*static_cast<std::uint64_t*>(caller));
  flushed = false;
  write((read() & ~FLUSH) | (own & FLUSH));
}

PUBLIC std::uint64_t fwt_bits() { return read(); }
