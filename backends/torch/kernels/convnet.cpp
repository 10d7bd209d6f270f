// The first layer of the ConvNet on the CPU: convolution, pooling, bias and ReLU of a glimpse at
// a time, and their gradient.
//
// Equation: eq. 1 of fwcore/cells/convnet.py; meaning of every array: convnet.py beside this file.
// All pixels of a glimpse stay in the cache for one vector register of features, and of each
// maximum only the pixel that won it is remembered. Glimpses come in blocks of fixed size, and a
// block adds up its gradients by itself: results do not depend on the number of threads. Letters:
// N glimpses, S pixels along a side, P maxima along a side, R features, L lanes.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int BYTES = 32;  // a register of AVX2, two of NEON
constexpr int64_t KERNEL = 3, STRIDE = 2, PLACES = KERNEL * KERNEL, ROWS = PLACES + 1;
constexpr int64_t BLOCK = 64;  // glimpses
constexpr int64_t NONE = PLACES;   // instead of a winner: the ReLU is at zero

// What a call computes; the same numbers as convnet.py hands over.
struct Shape {
  int64_t count, side, pooled, size;
};

// a register of numbers, and one of whole numbers as wide
template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef int32_t Whole;
  typedef float V __attribute__((vector_size(BYTES)));
  typedef Whole I __attribute__((vector_size(BYTES)));
};
template <>
struct Lanes<double> {
  typedef int64_t Whole;
  typedef double V __attribute__((vector_size(BYTES)));
  typedef Whole I __attribute__((vector_size(BYTES)));
};

template <typename T>
struct Layer {
  using V = typename Lanes<T>::V;
  using I = typename Lanes<T>::I;
  using Whole = typename Lanes<T>::Whole;
  static constexpr int64_t L = BYTES / sizeof(T), SLOTS = 2 * sizeof(Whole);  // of 4 bits a word

  const int64_t S, P, R;
  const int64_t maxima, words, vectors;
  const int64_t wide, span;    // pixels along a side: with the padding; under all windows
  std::vector<T> picture;      // (wide, wide), its border is zero
  std::vector<V> k;            // (ROWS, vectors): the places of K1, then b1
  std::vector<V> line, tops;   // a row of pixels (span); the maxima of rows of windows (span, P),
  std::vector<I> columns;      // and in which column they were
  std::vector<V> slope, seen;  // gradients: of the convolution (span, span); of picture

  Layer(const Shape& q, const T* kernel)
      : S(q.side), P(q.pooled), R(q.size), maxima(P * P), words((maxima + SLOTS - 1) / SLOTS),
        vectors((R + L - 1) / L), wide(S + KERNEL - 1), span(STRIDE * (P - 1) + KERNEL),
        picture(wide * wide), k(ROWS * vectors), line(span), tops(span * P), columns(span * P),
        slope(span * span), seen(wide * wide) {
    for (int64_t row = 0; row < ROWS; ++row)
      for (int64_t v = 0; v < vectors; ++v) k[row * vectors + v] = load<V>(kernel + row * R, v);
  }

  // L of the R numbers that begin at `from`; features that are not there are zero
  template <typename Vector, typename Number>
  Vector load(const Number* from, int64_t v) const {
    Vector found{};
    if ((v + 1) * L <= R)
      std::memcpy(&found, from + v * L, sizeof found);
    else
      for (int64_t lane = 0; v * L + lane < R; ++lane) found[lane] = from[v * L + lane];
    return found;
  }
  template <typename Vector, typename Number>
  void store(Vector values, Number* to, int64_t v) const {
    if ((v + 1) * L <= R)
      std::memcpy(to + v * L, &values, sizeof values);
    else
      for (int64_t lane = 0; v * L + lane < R; ++lane) to[v * L + lane] = values[lane];
  }

  void look(const T* pixels) {
    for (int64_t row = 0; row < S; ++row)
      std::copy_n(pixels + row * S, S, &picture[(row + 1) * wide + 1]);
  }

  // max(a, b) = a + relu(b - a), as the equations have it; the first of equals wins
  static void take(V& best, I& winner, V value, I number) {
    const V more = value - best;
    const I not_more = more <= T(0);  // what is not a number is passed on
    best += not_more ? V{} : more;
    winner = not_more ? winner : number;
  }

  // the convolution of a row, and its maxima
  void convolve(int64_t row, const V (&w)[PLACES]) {
    for (int64_t column = 0; column < span; ++column) {
      const T* x = &picture[row * wide + column];
      V sum{};
      for (int64_t i = 0; i < KERNEL; ++i)
        for (int64_t j = 0; j < KERNEL; ++j) sum += w[i * KERNEL + j] * x[i * wide + j];
      line[column] = sum;
    }
    for (int64_t j = 0; j < P; ++j) {
      V best = line[STRIDE * j];
      I column{};
      for (int64_t c = 1; c < KERNEL; ++c) take(best, column, line[STRIDE * j + c], I{} + Whole(c));
      tops[row * P + j] = best;
      columns[row * P + j] = column;
    }
  }

  // out (P^2, R), winners (words, R)
  void forward(const T* pixels, T* out, Whole* winners) {
    look(pixels);
    for (int64_t v = 0; v < vectors; ++v) {
      V w[PLACES];
      for (int64_t place = 0; place < PLACES; ++place) w[place] = k[place * vectors + v];
      const V bias = k[PLACES * vectors + v];
      for (int64_t row = 0; row < span; ++row) convolve(row, w);
      I word{};
      for (int64_t n = 0; n < maxima; ++n) {
        const int64_t top = n / P * STRIDE * P + n % P;
        V best = tops[top];
        I winner = columns[top];
        for (int64_t r = 1; r < KERNEL; ++r)
          take(best, winner, tops[top + r * P], columns[top + r * P] + Whole(r * KERNEL));
        best += bias;
        const I off = best <= T(0);
        store(off ? V{} : best, out + n * R, v);
        word |= (off ? I{} + Whole(NONE) : winner) << Whole(4 * (n % SLOTS));
        if (n % SLOTS < SLOTS - 1 && n < maxima - 1) continue;
        store(word, winners + n / SLOTS * R, v);
        word = I{};
      }
    }
  }

  // the gradient of the convolution of every pixel goes to the pixels that won; that of b1
  V route(const T* dout, const Whole* winners, int64_t v) {
    std::fill(slope.begin(), slope.end(), V{});
    V bias{};
    I word{};
    for (int64_t n = 0; n < maxima; ++n) {
      if (n % SLOTS == 0) word = load<I>(winners + n / SLOTS * R, v);
      const I winner = word & Whole(15);
      word >>= Whole(4);
      const V given = load<V>(dout + n * R, v);
      bias += winner == Whole(NONE) ? V{} : given;
      V* corner = &slope[n / P * STRIDE * span + n % P * STRIDE];
      for (int64_t r = 0; r < KERNEL; ++r)
        for (int64_t c = 0; c < KERNEL; ++c)
          corner[r * span + c] += winner == Whole(r * KERNEL + c) ? given : V{};
    }
    return bias;
  }

  // sums (ROWS, vectors) grow by the gradients of K1 and b1; dpixels (S^2) is filled if wanted
  void backward(const T* dout, const T* pixels, const Whole* winners, V* sums, T* dpixels) {
    look(pixels);
    if (dpixels) std::fill(seen.begin(), seen.end(), V{});
    for (int64_t v = 0; v < vectors; ++v) {
      sums[PLACES * vectors + v] += route(dout, winners, v);
      V to[PLACES]{};
      for (int64_t row = 0; row < span; ++row)
        for (int64_t column = 0; column < span; ++column) {
          const V s = slope[row * span + column];
          const T* x = &picture[row * wide + column];
          for (int64_t i = 0; i < KERNEL; ++i)
            for (int64_t j = 0; j < KERNEL; ++j) to[i * KERNEL + j] += s * x[i * wide + j];
        }
      for (int64_t place = 0; place < PLACES; ++place) sums[place * vectors + v] += to[place];
      if (dpixels) unlook(v);
    }
    if (!dpixels) return;
    for (int64_t row = 0; row < S; ++row)
      for (int64_t column = 0; column < S; ++column) {
        T sum = 0;
        for (int64_t lane = 0; lane < L; ++lane) sum += seen[(row + 1) * wide + column + 1][lane];
        dpixels[row * S + column] = sum;
      }
  }

  // `seen` grows by what one register of features gives to the picture
  void unlook(int64_t v) {
    V w[PLACES];
    for (int64_t place = 0; place < PLACES; ++place) w[place] = k[place * vectors + v];
    for (int64_t row = 0; row < span; ++row)
      for (int64_t column = 0; column < span; ++column) {
        const V s = slope[row * span + column];
        V* corner = &seen[row * wide + column];
        for (int64_t i = 0; i < KERNEL; ++i)
          for (int64_t j = 0; j < KERNEL; ++j) corner[i * wide + j] += s * w[i * KERNEL + j];
      }
  }
};

template <typename T>
using Whole = typename Lanes<T>::Whole;

int64_t end_of(const Shape& q, int64_t block) { return std::min(q.count, (block + 1) * BLOCK); }

template <typename T>
void run_forward(const Shape& q, int64_t first, int64_t last, const T* pixels, const T* kernel,
                 T* out, Whole<T>* winners) {
  Layer<T> layer(q, kernel);
  for (int64_t n = first * BLOCK; n < end_of(q, last - 1); ++n)
    layer.forward(pixels + n * q.side * q.side, out + n * layer.maxima * q.size,
                  winners + n * layer.words * q.size);
}

// sums (blocks, ROWS, R)
template <typename T>
void run_backward(const Shape& q, int64_t first, int64_t last, const T* dout, const T* pixels,
                  const T* kernel, const Whole<T>* winners, T* sums, T* dpixels) {
  Layer<T> layer(q, kernel);
  const int64_t area = q.side * q.side;
  for (int64_t block = first; block < last; ++block) {
    std::vector<typename Lanes<T>::V> found(ROWS * layer.vectors);
    for (int64_t n = block * BLOCK; n < end_of(q, block); ++n)
      layer.backward(dout + n * layer.maxima * q.size, pixels + n * area,
                     winners + n * layer.words * q.size, found.data(),
                     dpixels ? dpixels + n * area : nullptr);
    for (int64_t row = 0; row < ROWS; ++row)
      for (int64_t v = 0; v < layer.vectors; ++v)
        layer.store(found[row * layer.vectors + v], sums + (block * ROWS + row) * q.size, v);
  }
}

}  // namespace

#define ENTRIES(T, NAME)                                                                         \
  void fwt_forward_##NAME(const Shape* q, int64_t first, int64_t last, const T* pixels,          \
                          const T* kernel, T* out, Whole<T>* winners) {                          \
    run_forward<T>(*q, first, last, pixels, kernel, out, winners);                               \
  }                                                                                              \
  void fwt_backward_##NAME(const Shape* q, int64_t first, int64_t last, const T* dout,           \
                           const T* pixels, const T* kernel, const Whole<T>* winners, T* sums,   \
                           T* dpixels) {                                                         \
    run_backward<T>(*q, first, last, dout, pixels, kernel, winners, sums, dpixels);              \
  }

extern "C" {
ENTRIES(float, float32)
ENTRIES(double, float64)
}
