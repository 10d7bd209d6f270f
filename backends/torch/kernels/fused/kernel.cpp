// The fused core on the CPU: the whole time loop of a block of sequences, forward and backward.
//
// Equations: fwcore/cells/fast_weights.py; meaning of every array: operator.py. A is never built
// at a time step: within a chunk the past is read by attention (eq. 4), before it from A as the
// chunk's border left it. One vector register holds one number of LANES sequences, so sums run
// over plain loops, no tail is left over, and no sequence sees another: results do not depend on
// the number of threads. Letters: B sequences, T steps, R hidden, S inner steps, L lanes.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

// What decays unwritten would end among the denormal numbers, which are a hundred times slower.
constexpr double TINY = 1e-30;
constexpr int BYTES = 32;  // a register of AVX2, two of NEON; wider ones were no faster

template <typename T>
struct Lanes {
  typedef T V __attribute__((vector_size(BYTES)));
  static constexpr int COUNT = BYTES / sizeof(T);
};

// What a call computes; the same numbers as operator.py hands over.
struct Shape {
  int64_t members, batch, steps, size, inner, weights, chunk;
  int32_t wipe, norm;
  double epsilon;
};

template <typename T>
struct Block {
  using V = typename Lanes<T>::V;
  static constexpr int L = Lanes<T>::COUNT;

  const Shape& q;
  const int64_t R, first_sequence, lanes;  // lanes: sequences that are really there, 1..L
  const int64_t* which;
  const uint8_t* stores;
  const T *w, *gain, *bias;
  const int64_t begin;  // the first step that stores; before it, or if nothing reads, A is not there
  const T rate;
  std::vector<T> powers, slopes, rates;  // decay^a, its derivative, rate decay^a

  Block(const Shape& shape, int64_t member, int64_t group, const int64_t* which,
        const uint8_t* stores, const T* w, const T* gain, const T* bias, const T* decay,
        const T* rate)
      : q(shape), R(shape.size), first_sequence(member * shape.batch + group * L),
        lanes(std::min<int64_t>(L, shape.batch - group * L)), which(which), stores(stores),
        w(w + member * shape.weights * R * R), gain(gain + member * R), bias(bias + member * R),
        begin(q.inner ? std::find_if(stores, stores + q.steps, [](uint8_t is) { return is; }) - stores
                      : q.steps),
        rate(rate[member]) {
    const int64_t ages = std::min(q.steps, q.chunk) + 1;
    double power = 1, before = 0;
    for (int64_t age = 0; age < ages; ++age, before = power, power *= decay[member]) {
      powers.push_back(T(power));
      slopes.push_back(T(age * before));
      rates.push_back(T(power * rate[member]));
    }
  }

  // (T, R) rows of the sequences <-> one vector a number; lanes that are not there are zero
  void load(const T* rows, int64_t t, V* to) const {
    const T* row = rows + (first_sequence * q.steps + t) * R;
    if (lanes < L) std::fill(to, to + R, V{});
    for (int64_t lane = 0; lane < lanes; ++lane)
      for (int64_t i = 0; i < R; ++i) to[i][lane] = row[lane * q.steps * R + i];
  }
  void store(const V* from, T* rows, int64_t t) const {
    T* row = rows + (first_sequence * q.steps + t) * R;
    for (int64_t lane = 0; lane < lanes; ++lane)
      for (int64_t i = 0; i < R; ++i) row[lane * q.steps * R + i] = from[i][lane];
  }

  // what is not a number is passed on, by all three
  static V kept(V x) { return x <= T(TINY) && x >= -T(TINY) ? V{} : x; }
  static V relu(V x) { return x <= 0 ? V{} : x; }
  static V where(V sign, V x) { return sign <= 0 ? V{} : x; }

  // y[i] += sum over j of m[i, j] x[j]: N rows at once, so that each x[j] is loaded for N products
  template <int N>
  void some_rows(const T* m, const V* x, V* y) const {
    V sum[N];
    for (int u = 0; u < N; ++u) sum[u] = y[u];
    for (int64_t j = 0; j < R; ++j)
      for (int u = 0; u < N; ++u) sum[u] += m[u * R + j] * x[j];
    for (int u = 0; u < N; ++u) y[u] = sum[u];
  }
  void multiply(const T* m, const V* x, V* y) const {
    int64_t i = 0;
    for (; i + 8 <= R; i += 8) some_rows<8>(m + i * R, x, y + i);
    for (; i < R; ++i) some_rows<1>(m + i * R, x, y + i);
  }

  // y[j] = rows[j] . x for N rows at once
  template <int N>
  void some_scores(const V* rows, const V* x, V* y) const {
    V sum[N] = {};
    for (int64_t i = 0; i < R; ++i)
      for (int u = 0; u < N; ++u) sum[u] += rows[u * R + i] * x[i];
    for (int u = 0; u < N; ++u) y[u] = sum[u];
  }
  void scores(const V* rows, int64_t count, const V* x, V* y) const {
    int64_t j = 0;
    for (; j + 4 <= count; j += 4) some_scores<4>(rows + j * R, x, y + j);
    for (; j < count; ++j) some_scores<1>(rows + j * R, x, y + j);
  }

  // y += sum over j of weights[j] rows[j], N rows at once
  template <int N>
  void some_combined(const V* weights, const V* rows, V* y) const {
    for (int64_t i = 0; i < R; ++i) {
      V sum = y[i];
      for (int u = 0; u < N; ++u) sum += weights[u] * rows[u * R + i];
      y[i] = sum;
    }
  }
  void combine(const V* weights, const V* rows, int64_t count, V* y) const {
    int64_t j = 0;
    for (; j + 4 <= count; j += 4) some_combined<4>(weights + j, rows + j * R, y);
    for (; j < count; ++j) some_combined<1>(weights + j, rows + j * R, y);
  }

  // how much a read at step t finds of h(tau), if that was stored
  T weight(int64_t t, int64_t tau) const { return rates[t - 1 - tau]; }
  bool forgets(int64_t t) const { return q.wipe && stores[t]; }  // h is zero for step t + 1
  int64_t base(int64_t t) const { return t - t % q.chunk; }
  bool bordered(int64_t from) const { return from > begin; }  // whether A is there at a border

  // s = relu(LN[u]) or relu(u); y is what the gradient needs of it
  void respond(const V* u, V* y, V* inverse, V* s) const {
    if (!q.norm) {
      for (int64_t i = 0; i < R; ++i) s[i] = relu(y[i] = u[i]);
      return;
    }
    V mean = {}, square = {};
    for (int64_t i = 0; i < R; ++i) mean += u[i];
    mean /= T(R);
    for (int64_t i = 0; i < R; ++i) square += (u[i] - mean) * (u[i] - mean);
    for (int lane = 0; lane < L; ++lane)
      (*inverse)[lane] = T(1) / std::sqrt(square[lane] / T(R) + T(q.epsilon));
    for (int64_t i = 0; i < R; ++i) {
      y[i] = (u[i] - mean) * *inverse;
      s[i] = relu(gain[i] * y[i] + bias[i]);
    }
  }

  // the gradient du of the bracket from ds, that of the response
  void unrespond(const V* ds, const V* y, V inverse, V* du, V* dgain, V* dbias) const {
    if (!q.norm) {
      for (int64_t i = 0; i < R; ++i) du[i] = where(y[i], ds[i]);
      return;
    }
    V mean = {}, along = {};
    for (int64_t i = 0; i < R; ++i) {
      const V slope = where(gain[i] * y[i] + bias[i], ds[i]);
      dbias[i] += slope;
      dgain[i] += slope * y[i];
      du[i] = slope * gain[i];
      mean += du[i];
      along += du[i] * y[i];
    }
    mean /= T(R);
    along /= T(R);
    for (int64_t i = 0; i < R; ++i) du[i] = inverse * (du[i] - mean - y[i] * along);
  }

  // A at a border: what the one before left, and the chunk's states
  void fold(const V* older, const V* past, int64_t t, V* border) const {
    std::vector<V> column(q.chunk);
    for (int64_t i = 0; i < R; ++i) {
      for (int64_t j = 0; j < R; ++j)
        border[i * R + j] = older ? kept(powers[q.chunk] * older[i * R + j]) : V{};
      for (int64_t tau = t - q.chunk; tau < t; ++tau)
        column[tau - t + q.chunk] = stores[tau] ? weight(t, tau) * past[tau * R + i] : V{};
      combine(column.data(), past + (t - q.chunk) * R, q.chunk, border + i * R);
    }
  }

  // w is W and idle W times 0; the rest is filled: out (B, T, R), all else in lanes. A state that is not stored
  // is zero in `past`, and so is its weight: 0 times what is not a number would be none.
  void forward(const T* z, const T* idle, T* out, V* past, V* pre, V* y, V* inverse, V* borders) const {
    std::vector<V> s(R), scaled(R), u(R), reads(q.steps);
    for (int64_t t = 0; t < q.steps; ++t) {
      const int64_t from = base(t);
      V* slow = pre + t * R;
      load(z, t, slow);
      if (t && !forgets(t - 1))
        multiply(w + which[t] * R * R, s.data(), slow);
      else
        for (int64_t i = 0; i < R; ++i) slow[i] += idle[which[t] * R + i];
      V* border = bordered(from) ? borders + (from / q.chunk - 1) * R * R : nullptr;
      if (border && t == from)
        fold(bordered(from - q.chunk) ? border - R * R : nullptr, past, t, border);
      for (int64_t i = 0; i < R; ++i) s[i] = relu(slow[i]);  // eq. 2
      for (int64_t k = 0; k < q.inner; ++k) {
        std::copy(slow, slow + R, u.data());
        if (border) {
          for (int64_t i = 0; i < R; ++i) scaled[i] = powers[t - from] * s[i];
          combine(scaled.data(), border, R, u.data());  // A s as s^T A: A is symmetric
        }
        scores(past + from * R, t - from, s.data(), reads.data());
        for (int64_t tau = from; tau < t; ++tau)
          reads[tau - from] = stores[tau] ? reads[tau - from] * weight(t, tau) : V{};
        combine(reads.data(), past + from * R, t - from, u.data());
        const int64_t place = k * q.steps + t;
        respond(u.data(), y + place * R, inverse + place, s.data());  // eq. 3
      }
      if (!q.inner && q.norm) respond(slow, y + t * R, inverse + t, s.data());
      if (stores[t])
        std::copy(s.begin(), s.end(), past + t * R);
      else
        std::fill_n(past + t * R, R, V{});
      store(s.data(), out, t);
    }
  }

  // w is W transposed. Going back in time, grads[tau] gathers what later reads of the same chunk
  // give to h(tau); later = G + G^T is what the chunks after this one give to A at its end.
  void backward(const T* grad_out, const V* past, const V* pre, const V* y, const V* inverse,
                const V* borders, T* dz, T* dgain, T* dbias, T* ddecay, T* drate) const {
    const int64_t wide = q.steps > q.chunk ? R * R : 0;
    std::vector<V> grads(q.steps * R), later(wide), now(wide), ds(R), du(R), s(R), old(R), slope(R);
    std::vector<V> asked(q.steps), pulled(q.steps), gains(R), biases(R);
    V to_decay = {}, to_rate = {};
    for (int64_t t = q.steps - 1; t >= 0; --t) {
      const int64_t from = base(t), end = from + q.chunk;
      load(grad_out, t, ds.data());
      for (int64_t i = 0; i < R; ++i) ds[i] += grads[t * R + i];
      if (t + 1 < q.steps && !forgets(t)) multiply(w + which[t + 1] * R * R, slope.data(), ds.data());
      if (end < q.steps && bordered(end) && stores[t]) {
        std::fill(s.begin(), s.end(), V{});
        combine(past + t * R, later.data(), R, s.data());  // (G + G^T) h
        V half = {};
        for (int64_t i = 0; i < R; ++i) {
          half += s[i] * past[t * R + i];
          ds[i] += weight(end, t) * s[i];
        }
        half /= T(2);
        to_rate += half * powers[end - 1 - t];
        to_decay += half * (rate * slopes[end - 1 - t]);
      }
      std::fill(slope.begin(), slope.end(), V{});
      const V* border = bordered(from) ? borders + (from / q.chunk - 1) * R * R : nullptr;
      for (int64_t k = q.inner - 1; k >= 0; --k) {
        const int64_t place = k * q.steps + t;
        unrespond(ds.data(), y + place * R, inverse[place], du.data(), gains.data(), biases.data());
        for (int64_t i = 0; i < R; ++i) {
          slope[i] += du[i];
          const V before = k ? y[(place - q.steps) * R + i] : pre[t * R + i];
          s[i] = relu(k && q.norm ? gain[i] * before + bias[i] : before);
          ds[i] = V{};
        }
        scores(past + from * R, t - from, s.data(), asked.data());
        scores(past + from * R, t - from, du.data(), pulled.data());
        for (int64_t c = 0; c < t - from; ++c) {
          if (!stores[from + c]) {
            pulled[c] = V{};
            continue;
          }
          const V both = asked[c] * pulled[c];
          to_rate += both * powers[t - from - 1 - c];
          to_decay += both * (rate * slopes[t - from - 1 - c]);
          asked[c] *= weight(t, from + c);
          pulled[c] *= weight(t, from + c);
          V* grad = &grads[(from + c) * R];
          for (int64_t i = 0; i < R; ++i) grad[i] += asked[c] * du[i] + pulled[c] * s[i];
        }
        combine(pulled.data(), past + from * R, t - from, ds.data());  // A du
        if (border) {
          std::fill(old.begin(), old.end(), V{});
          combine(du.data(), border, R, old.data());
          V along = {};
          for (int64_t i = 0; i < R; ++i) {
            const V ui = powers[t - from] * du[i], si = powers[t - from] * s[i];
            along += old[i] * s[i];
            ds[i] += powers[t - from] * old[i];
            for (int64_t j = 0; j < R; ++j) now[i * R + j] += ui * s[j] + si * du[j];
          }
          to_decay += along * slopes[t - from];
        }
      }
      if (q.inner)
        for (int64_t i = 0; i < R; ++i) slope[i] += where(pre[t * R + i], ds[i]);
      else if (q.norm)
        unrespond(ds.data(), y + t * R, inverse[t], slope.data(), gains.data(), biases.data());
      else
        for (int64_t i = 0; i < R; ++i) slope[i] = where(pre[t * R + i], ds[i]);
      store(slope.data(), dz, t);
      if (border && t == from) {  // the chunk before sees A at this border
        const bool last = end >= q.steps;
        const V* older = bordered(from - q.chunk) ? border - R * R : nullptr;
        V through = {};
        for (int64_t i = 0; i < R * R; ++i) {
          later[i] = last ? now[i] : now[i] + powers[q.chunk] * later[i];
          now[i] = V{};
          if (older) through += later[i] * older[i];
        }
        to_decay += through * (slopes[q.chunk] / 2);
      }
    }
    for (int64_t i = 0; i < R; ++i) dgain[i] = total(gains[i]), dbias[i] = total(biases[i]);
    *ddecay = total(to_decay);
    *drate = total(to_rate);
  }

  T total(V x) const {
    T sum = 0;
    for (int64_t lane = 0; lane < lanes; ++lane) sum += x[lane];
    return sum;
  }
};

// sizes of one block's arrays, counted in vectors
template <typename T>
struct Sizes {
  int64_t groups, states, responses, divisors, borders;
  explicit Sizes(const Shape& q) {
    const int64_t kept = std::max<int64_t>(q.inner, 1);
    groups = (q.batch + Lanes<T>::COUNT - 1) / Lanes<T>::COUNT;
    states = q.steps * q.size;
    responses = kept * states;
    divisors = kept * q.steps;
    borders = (q.steps - 1) / q.chunk * q.size * q.size;
  }
};

// W 0 of each row of a member's matrices: 0, or what is not a number where W has infinities
template <typename T>
inline std::vector<T> products_with_zero(const Shape& q, const T* w) {
  std::vector<T> found(q.weights * q.size);
  for (T& row : found)
    for (int64_t j = 0; j < q.size; ++j) row += *w++ * T(0);
  return found;
}

template <typename T>
inline void run_forward(const Shape& q, int64_t first, int64_t last, const T* z, const T* w,
                        const int64_t* which, const uint8_t* stores, const T* gain, const T* bias,
                        const T* decay, const T* rate, T* out, T* past, T* pre, T* y, T* inverse,
                        T* borders) {
  using V = typename Lanes<T>::V;
  const Sizes<T> n(q);
  std::vector<T> idle;
  for (int64_t block = first; block < last; ++block) {
    const int64_t member = block / n.groups, group = block % n.groups;
    if (block == first || group == 0)
      idle = products_with_zero(q, w + member * q.weights * q.size * q.size);
    Block<T>(q, member, group, which, stores, w, gain, bias, decay, rate)
        .forward(z, idle.data(), out, (V*)past + block * n.states, (V*)pre + block * n.states,
                 (V*)y + block * n.responses, (V*)inverse + block * n.divisors,
                 (V*)borders + block * n.borders);
  }
}

template <typename T>
inline void run_backward(const Shape& q, int64_t first, int64_t last, const T* grad_out,
                         const T* w_t, const int64_t* which, const uint8_t* stores, const T* gain,
                         const T* bias, const T* decay, const T* rate, const T* past, const T* pre,
                         const T* y, const T* inverse, const T* borders, T* dz, T* dgain, T* dbias,
                         T* ddecay, T* drate) {
  using V = typename Lanes<T>::V;
  const Sizes<T> n(q);
  for (int64_t block = first; block < last; ++block)
    Block<T>(q, block / n.groups, block % n.groups, which, stores, w_t, gain, bias, decay, rate)
        .backward(grad_out, (const V*)past + block * n.states, (const V*)pre + block * n.states,
                  (const V*)y + block * n.responses, (const V*)inverse + block * n.divisors,
                  (const V*)borders + block * n.borders, dz, dgain + block * q.size,
                  dbias + block * q.size, ddecay + block, drate + block);
}

}  // namespace

namespace {

// One time step of B sequences with A as it is written (eq. 1): the numbers of a row lie side by
// side, because there may be one sequence only. c and w are transposed.
template <typename T>
struct Stream {
  int64_t batch, inputs, size, inner;
  int64_t norm;
  double epsilon, decay, rate;
  const T *gain, *bias;
  T *h, *fast, *scratch;  // (B, R), (B, R, R), (2, R)

  static T kept(T x) { return x <= T(TINY) && x >= -T(TINY) ? T(0) : x; }
  static T relu(T x) { return x <= 0 ? T(0) : x; }

  // y += sum over j of x[j] rows[j]
  static void combine(const T* x, const T* rows, int64_t count, int64_t size, T* __restrict__ y) {
    for (int64_t j = 0; j < count; ++j)
      for (int64_t i = 0; i < size; ++i) y[i] += x[j] * rows[j * size + i];
  }

  void respond(T* __restrict__ u, T* __restrict__ s) const {
    if (norm) {
      T mean = 0, square = 0;
      for (int64_t i = 0; i < size; ++i) mean += u[i];
      mean /= T(size);
      for (int64_t i = 0; i < size; ++i) square += (u[i] - mean) * (u[i] - mean);
      const T inverse = T(1) / std::sqrt(square / T(size) + T(epsilon));
      for (int64_t i = 0; i < size; ++i) u[i] = gain[i] * (u[i] - mean) * inverse + bias[i];
    }
    for (int64_t i = 0; i < size; ++i) s[i] = relu(u[i]);
  }

  // written: whether anything was stored before
  void step(const T* x, const T* c, const T* w, bool written, bool stores, bool wipe,
            T* out) const {
    T *slow = scratch, *u = scratch + size;
    for (int64_t b = 0; b < batch; ++b) {
      T *state = h + b * size, *s = out + b * size, *a = fast + b * size * size;
      std::fill(slow, slow + size, T(0));
      combine(x + b * inputs, c, inputs, size, slow);
      combine(state, w, size, size, slow);
      for (int64_t i = 0; i < size; ++i) s[i] = relu(slow[i]);  // eq. 2
      for (int64_t k = 0; k < inner; ++k) {
        std::copy(slow, slow + size, u);
        if (written) combine(s, a, size, size, u);
        respond(u, s);  // eq. 3
      }
      if (!inner && norm) respond(slow, s);
      for (int64_t i = 0; i < size; ++i) {
        const T strength = T(rate) * s[i];
        if (stores)
          for (int64_t j = 0; j < size; ++j)
            a[i * size + j] = kept(T(decay) * a[i * size + j] + strength * s[j]);  // eq. 1
        else
          for (int64_t j = 0; j < size; ++j) a[i * size + j] = kept(T(decay) * a[i * size + j]);
        state[i] = wipe && stores ? T(0) : s[i];
      }
    }
  }
};

}  // namespace

#define ENTRIES(T, NAME)                                                                          \
  void fwt_forward_##NAME(                                                                        \
      const Shape* q, int64_t first, int64_t last, const T* z, const T* w, const int64_t* which,  \
      const uint8_t* stores, const T* gain, const T* bias, const T* decay, const T* rate, T* out, \
      T* past, T* pre, T* y, T* inverse, T* borders) {                                            \
    run_forward<T>(*q, first, last, z, w, which, stores, gain, bias, decay, rate, out, past, pre, \
                   y, inverse, borders);                                                          \
  }                                                                                               \
  void fwt_backward_##NAME(                                                                       \
      const Shape* q, int64_t first, int64_t last, const T* grad_out, const T* w_t,               \
      const int64_t* which, const uint8_t* stores, const T* gain, const T* bias, const T* decay,  \
      const T* rate, const T* past, const T* pre, const T* y, const T* inverse,                   \
      const T* borders, T* dz, T* dgain, T* dbias, T* ddecay, T* drate) {                         \
    run_backward<T>(*q, first, last, grad_out, w_t, which, stores, gain, bias, decay, rate, past, \
                    pre, y, inverse, borders, dz, dgain, dbias, ddecay, drate);                   \
  }                                                                                               \
  void fwt_stream_##NAME(const Stream<T>* q, const T* x, const T* c, const T* w, int written,     \
                         int stores, int wipe, T* out) {                                          \
    q->step(x, c, w, written, stores, wipe, out);                                                 \
  }

extern "C" {
ENTRIES(float, float32)
ENTRIES(double, float64)
}
