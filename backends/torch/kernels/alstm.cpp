// A time step of the associative LSTM on the CPU, all of it behind the products with the weights: a
// sequence at a time, and its gradient.
//
// Equations: 1 to 4 of fwcore/cells/alstm.py; meaning of every array: alstm.py beside this file. A
// permutation is a row of places instead of a matrix, and what is between the gates and h stays in
// the cache. Nothing is added up over sequences: results do not depend on the number of threads.
// Letters: H = R/2 complex numbers, N copies. No two arrays overlap (`ivdep`).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

// What a call computes; the same numbers as alstm.py hands over.
struct Shape {
  int64_t half, copies;
};

// complex numbers as two arrays
template <typename T>
struct Complex {
  T *real, *imag;
  Complex from(int64_t place) const { return {real + place, imag + place}; }
};
template <typename T>
using Given = Complex<const T>;

template <typename T>
struct Step {
  const int64_t H, N;
  const int32_t* order;  // (N, H): P_s x = x[order[s]]
  const T share;         // 1 / N
  std::vector<T> room;
  Complex<T> bounded;                          // u, r_i, r_o of eq. 1, (3, H)
  Complex<T> value, mean, shown;               // g_i u; the mean of eq. 3, and its bound
  T *scale, *outer;                            // of eq. 4, of u, r_i, r_o and the mean, (4, H)
  Complex<T> dbounded, dvalue, dmean, dshown;  // gradients
  Complex<T> dkeys;                            // of P_s r_i, then of P_s r_o, (2, H)

  Step(const Shape& q, const int32_t* places)
      : H(q.half), N(q.copies), order(places), share(T(1) / T(N)), room(36 * H) {
    T* free = room.data();
    const auto take = [&](int64_t rows) { return std::exchange(free, free + rows * H); };
    const auto pair = [&](int64_t rows) {
      T* real = take(rows);
      return Complex<T>{real, take(rows)};
    };
    bounded = pair(3), value = pair(1), mean = pair(1), shown = pair(1);
    scale = take(4), outer = take(4);
    dbounded = pair(3), dvalue = pair(1), dmean = pair(1), dshown = pair(1), dkeys = pair(2);
  }

  // eq. 4 of `rows` times H numbers, and for its gradient: the factor, and the same where |z| > 1
  void bind(int64_t rows, Given<T> z, Complex<T> to, T* __restrict s, T* __restrict o) const {
    for (int64_t k = 0; k < rows * H; ++k) {
      const T a = z.real[k], b = z.imag[k], more = a * a + b * b - T(1);
      const bool inside = more <= T(0);  // what is not a number is passed on
      s[k] = T(1) / std::sqrt(T(1) + (inside ? T(0) : more));
      o[k] = inside ? T(0) : s[k];
      to.real[k] = a * s[k];
      to.imag[k] = b * s[k];
    }
  }

  // d: of the bound y, then of z
  void unbind(int64_t rows, Complex<T> y, const T* __restrict s, const T* __restrict o, Given<T> d,
              Complex<T> to) const {
    for (int64_t k = 0; k < rows * H; ++k) {
      const T along = o[k] * (d.real[k] * y.real[k] + d.imag[k] * y.imag[k]);
      to.real[k] = s[k] * d.real[k] - along * y.real[k];
      to.imag[k] = s[k] * d.imag[k] - along * y.imag[k];
    }
  }

  // eq. 1 and g_i u; pre (9, H), gates (3, H)
  void begin(const T* pre, const T* gates) {
    bind(3, {pre + 3 * H, pre + 6 * H}, bounded, scale, outer);
    for (int64_t k = 0; k < H; ++k) {
      value.real[k] = gates[k] * bounded.real[k];
      value.imag[k] = gates[k] * bounded.imag[k];
    }
  }

  // the sum of eq. 3 grows by a copy c (H)
  void read(const int32_t* __restrict places, Given<T> c) {
    const Complex<T> key = bounded.from(2 * H);
    for (int64_t k = 0; k < H; ++k) {
      const T a = key.real[places[k]], b = key.imag[places[k]];
      mean.real[k] += a * c.real[k] - b * c.imag[k];
      mean.imag[k] += a * c.imag[k] + b * c.real[k];
    }
  }

  void bind_mean() {
    for (int64_t k = 0; k < 2 * H; ++k) mean.real[k] *= share;  // imag lies behind
    bind(1, {mean.real, mean.imag}, shown, scale + 3 * H, outer + 3 * H);
  }

  // eq. 2 of a copy (H)
  void write(const int32_t* __restrict places, const T* __restrict forget, Given<T> old,
             Complex<T> c) const {
    const Complex<T> key = bounded.from(H);
#pragma GCC ivdep
    for (int64_t k = 0; k < H; ++k) {
      const T a = key.real[places[k]], b = key.imag[places[k]];
      c.real[k] = forget[k] * old.real[k] + (a * value.real[k] - b * value.imag[k]);
      c.imag[k] = forget[k] * old.imag[k] + (a * value.imag[k] + b * value.real[k]);
    }
  }

  // old, c (N, H); h (2, H)
  void forward(const T* pre, const T* gates, Given<T> old, T* h, Complex<T> c) {
    begin(pre, gates);
    std::fill_n(mean.real, 2 * H, T(0));
    for (int64_t at = 0; at < N * H; at += H) {
      write(order + at, gates + H, {old.real + at, old.imag + at}, c.from(at));
      read(order + at, {c.real + at, c.imag + at});
    }
    bind_mean();
    for (int64_t k = 0; k < H; ++k) {
      h[k] = shown.real[k] * gates[2 * H + k];
      h[H + k] = shown.imag[k] * gates[2 * H + k];
    }
  }

  // The gradients of a copy: dc of what it became, of the keys before P_s, of g_i u and of g_f.
  void backward_copy(const int32_t* __restrict places, const T* __restrict forget, Given<T> old,
                     Given<T> c, Given<T> dc, Complex<T> dold, T* __restrict dforget) {
#pragma GCC ivdep
    for (int64_t k = 0; k < H; ++k) {
      const int64_t i = H + places[k], o = 2 * H + places[k];
      const T in_real = bounded.real[i], in_imag = bounded.imag[i];
      const T out_real = bounded.real[o], out_imag = bounded.imag[o];
      const T m_real = dmean.real[k], m_imag = dmean.imag[k];
      const T real = dc.real[k] + out_real * m_real + out_imag * m_imag;
      const T imag = dc.imag[k] - out_imag * m_real + out_real * m_imag;
      dforget[k] += old.real[k] * real + old.imag[k] * imag;
      dold.real[k] = forget[k] * real;
      dold.imag[k] = forget[k] * imag;
      dvalue.real[k] += in_real * real + in_imag * imag;
      dvalue.imag[k] += in_real * imag - in_imag * real;
      dkeys.real[k] = value.real[k] * real + value.imag[k] * imag;
      dkeys.imag[k] = value.real[k] * imag - value.imag[k] * real;
      dkeys.real[H + k] = c.real[k] * m_real + c.imag[k] * m_imag;
      dkeys.imag[H + k] = c.real[k] * m_imag - c.imag[k] * m_real;
    }
    for (int64_t row = 0; row < 2; ++row)
      for (int64_t k = 0; k < H; ++k) {
        dbounded.real[(1 + row) * H + places[k]] += dkeys.real[row * H + k];
        dbounded.imag[(1 + row) * H + places[k]] += dkeys.imag[row * H + k];
      }
  }

  // The gradients dpre (9, H) and dold (N, H), from those of h (2, H) and c (N, H).
  void backward(const T* dh, Given<T> dc, const T* pre, const T* gates, Given<T> old, Given<T> c,
                T* dpre, Complex<T> dold) {
    begin(pre, gates);
    std::fill_n(mean.real, 2 * H, T(0));
    for (int64_t at = 0; at < N * H; at += H)
      read(order + at, {c.real + at, c.imag + at});
    bind_mean();
    for (int64_t k = 0; k < H; ++k) {
      const T gate = gates[2 * H + k];
      dpre[2 * H + k] = dh[k] * shown.real[k] + dh[H + k] * shown.imag[k];
      dshown.real[k] = dh[k] * gate * share;
      dshown.imag[k] = dh[H + k] * gate * share;
    }
    unbind(1, shown, scale + 3 * H, outer + 3 * H, {dshown.real, dshown.imag}, dmean);
    std::fill_n(dpre + H, H, T(0));
    std::fill_n(dvalue.real, 2 * H, T(0));
    std::fill_n(dbounded.real, 6 * H, T(0));
    for (int64_t at = 0; at < N * H; at += H)
      backward_copy(order + at, gates + H, {old.real + at, old.imag + at},
                    {c.real + at, c.imag + at}, {dc.real + at, dc.imag + at}, dold.from(at),
                    dpre + H);
    for (int64_t k = 0; k < H; ++k) {
      dpre[k] = bounded.real[k] * dvalue.real[k] + bounded.imag[k] * dvalue.imag[k];
      dbounded.real[k] = gates[k] * dvalue.real[k];
      dbounded.imag[k] = gates[k] * dvalue.imag[k];
    }
    for (int64_t k = 0; k < 3 * H; ++k) dpre[k] *= gates[k] * (T(1) - gates[k]);
    unbind(3, bounded, scale, outer, {dbounded.real, dbounded.imag}, {dpre + 3 * H, dpre + 6 * H});
  }
};

template <typename T>
void run_forward(const Shape& q, int64_t first, int64_t last, const T* pre, const T* gates,
                 const T* real, const T* imag, const int32_t* order, T* h, T* c_real, T* c_imag) {
  Step<T> step(q, order);
  for (int64_t b = first; b < last; ++b) {
    const int64_t at = b * q.copies * q.half;
    step.forward(pre + 9 * b * q.half, gates + 3 * b * q.half, {real + at, imag + at},
                 h + 2 * b * q.half, {c_real + at, c_imag + at});
  }
}

template <typename T>
void run_backward(const Shape& q, int64_t first, int64_t last, const T* dh, const T* dc_real,
                  const T* dc_imag, const T* pre, const T* gates, const T* real, const T* imag,
                  const T* c_real, const T* c_imag, const int32_t* order, T* dpre, T* dreal,
                  T* dimag) {
  Step<T> step(q, order);
  for (int64_t b = first; b < last; ++b) {
    const int64_t at = b * q.copies * q.half;
    step.backward(dh + 2 * b * q.half, {dc_real + at, dc_imag + at}, pre + 9 * b * q.half,
                  gates + 3 * b * q.half, {real + at, imag + at}, {c_real + at, c_imag + at},
                  dpre + 9 * b * q.half, {dreal + at, dimag + at});
  }
}

}  // namespace

#define ENTRIES(T, NAME)                                                                         \
  void fwt_forward_##NAME(const Shape* q, int64_t first, int64_t last, const T* pre,             \
                          const T* gates, const T* real, const T* imag, const int32_t* order,    \
                          T* h, T* c_real, T* c_imag) {                                          \
    run_forward<T>(*q, first, last, pre, gates, real, imag, order, h, c_real, c_imag);           \
  }                                                                                              \
  void fwt_backward_##NAME(const Shape* q, int64_t first, int64_t last, const T* dh,             \
                           const T* dc_real, const T* dc_imag, const T* pre, const T* gates,     \
                           const T* real, const T* imag, const T* c_real, const T* c_imag,       \
                           const int32_t* order, T* dpre, T* dreal, T* dimag) {                  \
    run_backward<T>(*q, first, last, dh, dc_real, dc_imag, pre, gates, real, imag, c_real,       \
                    c_imag, order, dpre, dreal, dimag);                                          \
  }

extern "C" {
ENTRIES(float, float32)
ENTRIES(double, float64)
}
