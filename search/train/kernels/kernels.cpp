// What torch is slow at on a CPU, forward and backward: attention, norms, the FFN's activation, the
// loss. Matrix products of weights stay torch's. `__init__.py` builds this file and
// takes the types of the arguments from it; `selftest.py` tests each kernel.
//
// Activations have an element type: bf16 (rounded to nearest even, summed in float32) or float32.
// Vectors are GCC's and Clang's own, so that the file builds for any processor; only the product of
// bf16 pairs has an instruction of its own where the processor does.
//
// B sequences, T positions, N query heads, K key/value heads, H head_dim, D width, F FFN width, V
// vocabulary

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;
constexpr int MAX_HEAD_DIM = 1024;
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
constexpr Ints LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

template <class To, class From>
inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "a reinterpretation");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline Words load(const uint32_t* p) {
  Words v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline void store(float* p, Floats v) { std::memcpy(p, &v, sizeof(v)); }
inline void store(uint32_t* p, Words v) { std::memcpy(p, &v, sizeof(v)); }
inline Floats all(float x) { return Floats{} + x; }
inline Floats largest(Floats a, Floats b) {
#ifdef __AVX512F__
  return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return a > b ? a : b;
#endif
}
// The first n lanes of v, and zeros.
inline Floats first(Floats v, int n) { return LANE < n ? v : Floats{}; }
inline float sum(Floats v) {
#ifdef __AVX512F__
  return _mm512_reduce_add_ps((__m512)v);
#endif
  float s = 0;
  for (int i = 0; i < LANES; i++) s += v[i];
  return s;
}
inline float maximum(Floats v) {
#ifdef __AVX512F__
  return _mm512_reduce_max_ps((__m512)v);
#endif
  float m = v[0];
  for (int i = 1; i < LANES; i++) m = std::max(m, v[i]);
  return m;
}

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#define MASKS
inline __mmask16 lanes(int n) { return __mmask16((1u << n) - 1); }
#endif
constexpr uint16_t WOVEN[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

// An element type says how to read and write it, and packs `pack` of it into a 32-bit word: words
// are what matrix products read, and `dot` adds the product of a word with each of 16.
struct Bf16 {
  using type = uint16_t;
  static constexpr int pack = 2;
  static float get(uint16_t x) { return bits<float>(uint32_t(x) << 16); }
  static uint16_t put(float x) {
    uint32_t u = bits<uint32_t>(x);
    return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
  static uint32_t word(const uint16_t* p) { return p[0] | uint32_t(p[1]) << 16; }
  // Sixteen words of the elements of two rows.
  static Words words(const uint16_t* p, long next) {
    Halves low, high;
    std::memcpy(&low, p, sizeof(low));
    std::memcpy(&high, p + next, sizeof(high));
    return __builtin_convertvector(low, Words) | __builtin_convertvector(high, Words) << 16;
  }
  static Floats widened(Halves h) { return bits<Floats>(__builtin_convertvector(h, Words) << 16); }
  static Halves rounded(Floats v) {
#ifdef __AVX512BF16__
    return (Halves)_mm512_cvtneps_pbh((__m512)v);
#else
    Words u = bits<Words>(v);
    return __builtin_convertvector((u + 0x7fff + ((u >> 16) & 1)) >> 16, Halves);
#endif
  }
  static Floats load16(const uint16_t* p) {
    Halves h;
    std::memcpy(&h, p, sizeof(h));
    return widened(h);
  }
  static void store16(uint16_t* p, Floats v) {
    Halves h = rounded(v);
    std::memcpy(p, &h, sizeof(h));
  }
  static Floats load_first(const uint16_t* p, int n) {
    Halves h{};
#ifdef MASKS
    h = (Halves)_mm256_maskz_loadu_epi16(lanes(n), p);
#else
    for (int i = 0; i < n; i++) h[i] = p[i];
#endif
    return widened(h);
  }
  static void store_first(uint16_t* p, Floats v, int n) {
    Halves h = rounded(v);
#ifdef MASKS
    _mm256_mask_storeu_epi16(p, lanes(n), (__m256i)h);
#else
    for (int i = 0; i < n; i++) p[i] = h[i];
#endif
  }
  // Sixteen words of the elements of two rows that are not yet rounded.
  static Words weave(Floats row, Floats next) {
#ifdef __AVX512BF16__
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)next, (__m512)row);
    return (Words)_mm512_permutexvar_epi16(_mm512_loadu_si512(WOVEN), both);
#else
    uint16_t rows[2][LANES];
    store16(rows[0], row);
    store16(rows[1], next);
    return words(rows[0], LANES);
#endif
  }
  static Floats dot(Floats sum, Words b, uint32_t a) {
#ifdef __AVX512BF16__
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)b);
#else
    Floats low = bits<Floats>(b << 16), high = bits<Floats>(b & 0xffff0000u);
    return sum + low * bits<float>(a << 16) + high * bits<float>(a & 0xffff0000u);
#endif
  }
};

struct F32 {
  using type = float;
  static constexpr int pack = 1;
  static float get(float x) { return x; }
  static float put(float x) { return x; }
  static uint32_t word(const float* p) { return bits<uint32_t>(*p); }
  static Words words(const float* p, long) { return bits<Words>(load(p)); }
  static Floats load16(const float* p) { return load(p); }
  static void store16(float* p, Floats v) { store(p, v); }
  static Floats load_first(const float* p, int n) {
    Floats v{};
#ifdef MASKS
    v = (Floats)_mm512_maskz_loadu_ps(lanes(n), p);
#else
    for (int i = 0; i < n; i++) v[i] = p[i];
#endif
    return v;
  }
  static void store_first(float* p, Floats v, int n) {
#ifdef MASKS
    _mm512_mask_storeu_ps(p, lanes(n), (__m512)v);
#else
    for (int i = 0; i < n; i++) p[i] = v[i];
#endif
  }
  static Words weave(Floats row, Floats) { return bits<Words>(row); }
  static Floats dot(Floats sum, Words b, uint32_t a) {
    return sum + bits<Floats>(b) * bits<float>(a);
  }
};

// The first n lanes; what lies behind them is zero, or stays.
template <class E>
inline Floats get(const typename E::type* p, int n) {
  return n < LANES ? E::load_first(p, n) : E::load16(p);
}
template <class E>
inline void put(typename E::type* p, Floats v, int n) {
  n < LANES ? E::store_first(p, v, n) : E::store16(p, v);
}

constexpr float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;
constexpr float POWER[] = {.693146978f, .240222421f, .0555073374f, .00967151275f, .00132647271f};

// 2^x for x below 128, and next to nothing below -126: a whole power and a polynomial, within 2e-7.
inline Floats power(Floats x) {
#ifdef __AVX512F__
  Floats whole = (Floats)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT);
#else
  const float magic = 12582912.f;  // adding it rounds to an integer, in the low bits
  x = largest(x, all(-126.f));
  Floats raised = x + magic, whole = raised - magic;
#endif
  Floats f = x - whole;
  Floats p = all(POWER[4]);
  for (int i = 3; i >= 0; i--) p = p * f + POWER[i];
  p = p * f + 1.f;
#ifdef __AVX512F__
  return (Floats)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
  return bits<Floats>(bits<Ints>(p) + (bits<Ints>(raised) << 23));
#endif
}
inline Floats exponential(Floats x) { return power(x * LOG2_E); }

inline Floats reciprocal(Floats x) {
#ifdef __AVX512F__
  Floats r = (Floats)_mm512_rcp14_ps((__m512)x);
  return r * (2.f - x * r);
#else
  return 1.f / x;
#endif
}

// C (M × N) = or += A (M × K words) · B (K × N words). Word (m, k) of A is a[m·am + k·ak], so that A
// may be transposed; M and N are multiples of 16.
#define UNROLL _Pragma("GCC unroll 16")  // so that sums stay in registers
template <class E, int MR, int NR>
inline void tile(int K, const uint32_t* a, long am, long ak, const uint32_t* b, long ldb, float* c,
                 long ldc, bool add) {
  Floats sums[MR][NR];
  UNROLL for (int i = 0; i < MR; i++)
    UNROLL for (int j = 0; j < NR; j++)
      sums[i][j] = add ? load(c + i * ldc + j * LANES) : Floats{};
  for (int k = 0; k < K; k++) {
    Words row[NR];
    UNROLL for (int j = 0; j < NR; j++) row[j] = load(b + k * ldb + j * LANES);
    UNROLL for (int i = 0; i < MR; i++)
      UNROLL for (int j = 0; j < NR; j++) sums[i][j] = E::dot(sums[i][j], row[j], a[i * am + k * ak]);
  }
  UNROLL for (int i = 0; i < MR; i++)
    UNROLL for (int j = 0; j < NR; j++) store(c + i * ldc + j * LANES, sums[i][j]);
}

template <class E, int MR, int NR>
inline void columns(int M, int K, const uint32_t* a, long am, long ak, const uint32_t* b, long ldb,
                    float* c, long ldc, bool add) {
  for (int m = 0; m < M; m += MR)
    tile<E, MR, NR>(K, a + m * am, am, ak, b, ldb, c + m * ldc, ldc, add);
}

template <class E>
void product(int M, int N, int K, const uint32_t* a, long am, long ak, const uint32_t* b, long ldb,
             float* c, long ldc, bool add = false) {
  int n = 0;
  for (; n + 64 <= N; n += 64) columns<E, 4, 4>(M, K, a, am, ak, b + n, ldb, c + n, ldc, add);
  for (; n + 32 <= N; n += 32) columns<E, 8, 2>(M, K, a, am, ak, b + n, ldb, c + n, ldc, add);
  for (; n < N; n += 16) columns<E, 16, 1>(M, K, a, am, ak, b + n, ldb, c + n, ldc, add);
}

// The part of C (M × begin + M) = A · B at and left of the diagonal: queries times keys.
template <class E>
void lower(int M, int begin, int K, const uint32_t* a, const uint32_t* b, long ldb, float* c) {
  const int ldc = begin + M;
  product<E>(M, begin, K, a, K, 1, b, ldb, c, ldc);
  for (int m = 0; m < M; m += LANES)
    product<E>(LANES, m + LANES, K, a + long(m) * K, K, 1, b + begin, ldb, c + long(m) * ldc + begin,
               ldc);
}

// C (M × N) = A · B for such an A (M × begin + M), a row's zeros right of the diagonal left out.
template <class E>
void lower_times(int M, int N, int begin, const uint32_t* a, const uint32_t* b, float* c) {
  const int row = (begin + M) / E::pack, before = begin / E::pack;
  product<E>(M, N, before, a, row, 1, b, N, c, N);
  for (int m = 0; m < M; m += LANES)
    product<E>(LANES, N, (m + LANES) / E::pack, a + long(m) * row + before, row, 1,
               b + long(before) * N, N, c + long(m) * N, N, true);
}

// C (begin + M × N) += Aᵀ · B for such an A, in words down its rows.
template <class E>
void add_lower_transposed_times(int M, int N, int begin, const uint32_t* a, const uint32_t* b,
                                float* c) {
  const int row = begin + M;
  product<E>(begin, N, M / E::pack, a, 1, row, b, N, c, N, true);
  for (int m = 0; m < M; m += LANES) {
    const int from = m / E::pack;
    product<E>(LANES, N, M / E::pack - from, a + long(from) * row + begin + m, 1, row,
               b + long(from) * N, N, c + long(begin + m) * N, N, true);
  }
}

inline int padded(int n) { return (n + LANES - 1) / LANES * LANES; }

// Memory of one thread, kept between calls.
struct Scratch {
  std::vector<float> memory;
  size_t used = 0;
  explicit Scratch(size_t floats) : memory(floats) {}
  void open(size_t floats) {
    if (memory.size() < floats) memory.resize(floats);
    used = 0;
  }
  template <class T>
  T* take(size_t n) {
    T* p = (T*)(memory.data() + used);
    used += (n * sizeof(T) + 63) / 64 * 16;
    return p;
  }
};

// Where heads stand in a row of q, k and v, what is done to them, and how large everything is.
template <class E>
struct Heads {
  using T = typename E::type;
  int B, len, N, K, H;
  const float *cosine, *sine;       // (T, H / 2)
  const float *q_gain, *k_gain;     // (H) each, of the norms of queries and keys; or null
  float eps;
  int G = N / K, Hp = padded(H), Tp = padded(len), row = (N + 2 * K) * H;
  int Hw = Hp / E::pack;            // words of a head's row
  float scale = 1.f / std::sqrt(float(H));

  // A query's or key's row, normed where it has a gain, and rotated; zeros behind it. `normed` gets
  // x / rms, the returned value is 1 / rms.
  float turn(const T* __restrict x, const float* gain, int t, T* __restrict out,
             float* __restrict normed) const {
    T gained[MAX_HEAD_DIM];
    float r = 1;
    if (gain) {
      float squares = 0;
      for (int i = 0; i < H; i++) squares += E::get(x[i]) * E::get(x[i]);
      r = 1.f / std::sqrt(squares / H + eps);
      for (int i = 0; i < H; i++) {
        float a = E::get(x[i]) * r;
        if (normed) normed[i] = a;
        gained[i] = E::put(a * gain[i]);
      }
      x = gained;
    }
    rotate<E>(x, x + H / 2, t, 1.f, out);
    for (int i = H; i < Hp; i++) out[i] = 0;
    return r;
  }

  // The gradient of `x` in `turn` from that of its result, which is destroyed.
  void turn_back(float* __restrict d, const T* x, const float* gain, float* dgain, int t,
                 T* __restrict dx) const {
    if (!gain) return rotate<F32>(d, d + H / 2, t, -1.f, dx);
    float turned[MAX_HEAD_DIM], normed[MAX_HEAD_DIM], mean = 0;
    T unused[MAX_HEAD_DIM];
    Heads<F32>{B, len, N, K, H, cosine, sine}.template rotate<F32>(d, d + H / 2, t, -1.f, turned);
    float r = turn(x, gain, t, unused, normed);
    for (int i = 0; i < H; i++) {
      dgain[i] += turned[i] * normed[i];
      turned[i] *= gain[i];
      mean += turned[i] * normed[i] / H;
    }
    for (int i = 0; i < H; i++) dx[i] = E::put(r * (turned[i] - normed[i] * mean));
  }

  // The halves of a row turned by the angle of position t, or back.
  template <class From>
  void rotate(const typename From::type* low, const typename From::type* high, int t, float sign,
              T* out) const {
    const int half = H / 2;
    const float *c = cosine + long(t) * half, *s = sine + long(t) * half;
    for (int i = 0; i < half; i += LANES) {
      int n = std::min(LANES, half - i);
      Floats a = get<From>(low + i, n), b = get<From>(high + i, n);
      Floats cos = get<F32>(c + i, n), sin = get<F32>(s + i, n) * sign;
      put<E>(out + i, a * cos - b * sin, n);
      put<E>(out + half + i, b * cos + a * sin, n);
    }
  }

  // Rows as words across: word (h, t) holds elements h·pack … of row t.
  void across(const T* rows, int n, uint32_t* out, long ld) const {
    for (int t = 0; t < n; t++)
      for (int h = 0; h < Hw; h++) out[h * ld + t] = E::word(rows + long(t) * Hp + h * E::pack);
  }
  // Rows as words down: word (t, h) holds element h of rows t·pack …
  void down(const T* rows, int n, uint32_t* out) const {
    const long width = Hp;
    for (long t = 0; t < n / E::pack; t++)
      for (long h = 0; h < width; h += LANES)
        store(out + t * width + h, E::words(rows + t * E::pack * width + h, width));
  }
  void copy_padded(const T* x, T* out) const {
    std::memcpy(out, x, H * sizeof(T));
    std::memset(out + H, 0, (Hp - H) * sizeof(T));
  }
};

constexpr int ROWS = 64;  // queries taken together

// y (B, T, N·H) and lse (B, N, T), log2 of the sum of exponentials, from qkv (B, T, (N + 2K)·H).
template <class E>
void attention_forward(const Heads<E>& s, const typename E::type* qkv, typename E::type* y,
                       float* lse) {
  using T = typename E::type;
  const int Tr = (s.Tp + ROWS - 1) / ROWS * ROWS;
  const float factor = s.scale * LOG2_E;
  static thread_local Scratch scratch(0);
  scratch.open(size_t(Tr) * s.Hp * 6 + size_t(ROWS) * (Tr * 2 + s.Hp * 4) + 1024);
  T* rows = scratch.take<T>(size_t(Tr) * s.Hp);
  uint32_t* keys = scratch.take<uint32_t>(size_t(s.Hw) * Tr);
  uint32_t* values = scratch.take<uint32_t>(size_t(Tr) * s.Hp);
  T* q = scratch.take<T>(ROWS * s.Hp);
  float* scores = scratch.take<float>(size_t(ROWS) * Tr);
  T* weights = scratch.take<T>(size_t(ROWS) * Tr);
  float* out = scratch.take<float>(ROWS * s.Hp);
  for (int task = 0; task < s.B * s.K; task++) {
    int b = task / s.K, g = task % s.K;
    const T* base = qkv + long(b) * s.len * s.row;
    std::memset(rows + size_t(s.len) * s.Hp, 0, size_t(Tr - s.len) * s.Hp * sizeof(T));
    for (int t = 0; t < s.len; t++)
      s.turn(base + long(t) * s.row + (s.N + g) * s.H, s.k_gain, t, rows + long(t) * s.Hp, nullptr);
    s.across(rows, Tr, keys, Tr);
    for (int t = 0; t < s.len; t++)
      s.copy_padded(base + long(t) * s.row + (s.N + s.K + g) * s.H, rows + long(t) * s.Hp);
    s.down(rows, Tr, values);
    for (int n = g * s.G; n < (g + 1) * s.G; n++)
      for (int begin = 0; begin < s.len; begin += ROWS) {
        int count = std::min(ROWS, s.len - begin), M = padded(count), seen = begin + M;
        float total[ROWS];
        for (int i = 0; i < count; i++)
          s.turn(base + long(begin + i) * s.row + n * s.H, s.q_gain, begin + i, q + i * s.Hp,
                 nullptr);
        std::memset(q + count * s.Hp, 0, size_t(M - count) * s.Hp * sizeof(T));
        lower<E>(M, begin, s.Hw, (uint32_t*)q, keys, Tr, scores);
        for (int i = 0; i < M; i++) {
          const int whole = begin + i / LANES * LANES, rest = begin + i + 1 - whole;
          const float* row = scores + long(i) * seen;
          T* w = weights + long(i) * seen;
          Floats high = LANE < rest ? load(row + whole) : all(-INFINITY), added{};
          for (int j = 0; j < whole; j += LANES) high = largest(high, load(row + j));
          const float top = maximum(high) * factor;
          for (int j = 0; j < whole; j += LANES) {
            Floats e = power(load(row + j) * factor - top);
            added += e;
            E::store16(w + j, e);
          }
          Floats e = first(power(load(row + whole) * factor - top), rest);
          E::store16(w + whole, e);
          total[i] = sum(added + e);
          if (i < count) lse[(long(b) * s.N + n) * s.len + begin + i] = top + std::log2(total[i]);
        }
        lower_times<E>(M, s.Hp, begin, (uint32_t*)weights, values, out);
        for (int i = 0; i < count; i++) {
          T* to = y + (long(b) * s.len + begin + i) * s.N * s.H + n * s.H;
          const float part = 1.f / total[i];
          for (int h = 0; h < s.H; h += LANES)
            put<E>(to + h, load(out + i * s.Hp + h) * part, s.H - h);
        }
      }
  }
}

// dqkv from dy, and gradients added to those of the gains.
template <class E>
void attention_backward(const Heads<E>& s, const typename E::type* qkv, const typename E::type* y,
                        const float* lse, const typename E::type* dy, typename E::type* dqkv,
                        float* dq_gain, float* dk_gain) {
  using T = typename E::type;
  const int Tr = (s.Tp + ROWS - 1) / ROWS * ROWS;
  const float factor = s.scale * LOG2_E;
  static thread_local Scratch scratch(0);
  scratch.open(size_t(Tr) * s.Hp * 10 + size_t(ROWS) * (Tr * 6 + s.Hp * 8) + 1024);
  T* rows = scratch.take<T>(size_t(Tr) * s.Hp);
  uint32_t* keys = scratch.take<uint32_t>(size_t(s.Hw) * Tr);
  uint32_t* keys_down = scratch.take<uint32_t>(size_t(Tr) * s.Hp);
  uint32_t* values = scratch.take<uint32_t>(size_t(s.Hw) * Tr);
  float* dk = scratch.take<float>(size_t(Tr) * s.Hp);
  float* dv = scratch.take<float>(size_t(Tr) * s.Hp);
  T* q = scratch.take<T>(ROWS * s.Hp);
  T* dout = scratch.take<T>(ROWS * s.Hp);
  uint32_t* q_down = scratch.take<uint32_t>(ROWS * s.Hp);
  uint32_t* dout_down = scratch.take<uint32_t>(ROWS * s.Hp);
  float* scores = scratch.take<float>(size_t(ROWS) * Tr);
  float* dscores = scratch.take<float>(size_t(ROWS) * Tr);
  T* ds = scratch.take<T>(size_t(ROWS) * Tr);
  uint32_t* p_down = scratch.take<uint32_t>(size_t(ROWS) * Tr);
  uint32_t* ds_down = scratch.take<uint32_t>(size_t(ROWS) * Tr);
  float* dq = scratch.take<float>(ROWS * s.Hp);
  for (int task = 0; task < s.B * s.K; task++) {
    int b = task / s.K, g = task % s.K;
    const T* base = qkv + long(b) * s.len * s.row;
    T* dbase = dqkv + long(b) * s.len * s.row;
    std::memset(rows + size_t(s.len) * s.Hp, 0, size_t(Tr - s.len) * s.Hp * sizeof(T));
    for (int t = 0; t < s.len; t++)
      s.turn(base + long(t) * s.row + (s.N + g) * s.H, s.k_gain, t, rows + long(t) * s.Hp, nullptr);
    s.across(rows, Tr, keys, Tr);
    s.down(rows, Tr, keys_down);
    for (int t = 0; t < s.len; t++)
      s.copy_padded(base + long(t) * s.row + (s.N + s.K + g) * s.H, rows + long(t) * s.Hp);
    s.across(rows, Tr, values, Tr);
    std::memset(dk, 0, size_t(Tr) * s.Hp * sizeof(float));
    std::memset(dv, 0, size_t(Tr) * s.Hp * sizeof(float));
    for (int n = g * s.G; n < (g + 1) * s.G; n++)
      for (int begin = 0; begin < s.len; begin += ROWS) {
        int count = std::min(ROWS, s.len - begin), M = padded(count), seen = begin + M;
        float inner[ROWS] = {0}, logs[ROWS] = {0};
        for (int i = 0; i < count; i++) {
          int t = begin + i;
          long at = (long(b) * s.len + t) * s.N * s.H + n * s.H;
          s.turn(base + long(t) * s.row + n * s.H, s.q_gain, t, q + i * s.Hp, nullptr);
          s.copy_padded(dy + at, dout + i * s.Hp);
          Floats products{};
          for (int h = 0; h < s.H; h += LANES) {
            int some = std::min(LANES, s.H - h);
            products += get<E>(dy + at + h, some) * get<E>(y + at + h, some);
          }
          inner[i] = sum(products);
          logs[i] = lse[(long(b) * s.N + n) * s.len + t];
        }
        std::memset(q + count * s.Hp, 0, size_t(M - count) * s.Hp * sizeof(T));
        std::memset(dout + count * s.Hp, 0, size_t(M - count) * s.Hp * sizeof(T));
        s.down(q, M, q_down);
        s.down(dout, M, dout_down);
        lower<E>(M, begin, s.Hw, (uint32_t*)q, keys, Tr, scores);
        lower<E>(M, begin, s.Hw, (uint32_t*)dout, values, Tr, dscores);
        // P and dS, as rows and, for products over queries, as words down the rows.
        for (int i = 0; i < M; i += E::pack) {
          const int whole = begin + i / LANES * LANES;
          const long down = long(i / E::pack) * seen;
          for (int j = 0; j <= whole; j += LANES) {
            Floats p[2]{}, d[2]{};
            for (int r = 0; r < E::pack; r++) {
              const long at = long(i + r) * seen + j;
              p[r] = power(load(scores + at) * factor - logs[i + r]);
              if (j == whole) p[r] = first(p[r], begin + i + r + 1 - whole);
              d[r] = p[r] * (load(dscores + at) - inner[i + r]) * s.scale;
              E::store16(ds + at, d[r]);
            }
            store(p_down + down + j, E::weave(p[0], p[1]));
            store(ds_down + down + j, E::weave(d[0], d[1]));
          }
        }
        lower_times<E>(M, s.Hp, begin, (uint32_t*)ds, keys_down, dq);
        add_lower_transposed_times<E>(M, s.Hp, begin, p_down, dout_down, dv);
        add_lower_transposed_times<E>(M, s.Hp, begin, ds_down, q_down, dk);
        for (int i = 0; i < count; i++) {
          long at = long(begin + i) * s.row + n * s.H;
          s.turn_back(dq + i * s.Hp, base + at, s.q_gain, dq_gain, begin + i, dbase + at);
        }
      }
    for (int t = 0; t < s.len; t++) {
      long at = long(t) * s.row + (s.N + g) * s.H;
      s.turn_back(dk + long(t) * s.Hp, base + at, s.k_gain, dk_gain, t, dbase + at);
      T* to = dbase + at + s.K * s.H;
      for (int h = 0; h < s.H; h += LANES)
        put<E>(to + h, load(dv + long(t) * s.Hp + h), s.H - h);
    }
  }
}

// x += delta (where there is one); y = x / rms(x) · gain; rstd = 1 / rms. x: (rows, D) float32.
template <class E>
void norm_forward(const float* before, const typename E::type* delta, const float* gain, float* x,
                  typename E::type* y, float* rstd, long rows, int D, float eps) {
  for (long r = 0; r < rows; r++) {
    const float* in = before + r * D;
    float* out = x + r * D;
    float squares = 0;
    if (delta) {
      const typename E::type* d = delta + r * D;
#pragma omp simd
      for (int i = 0; i < D; i++) out[i] = in[i] + E::get(d[i]);
    } else if (in != out) {
      std::memcpy(out, in, D * sizeof(float));
    }
#pragma omp simd reduction(+ : squares)
    for (int i = 0; i < D; i++) squares += out[i] * out[i];
    float s = rstd[r] = 1.f / std::sqrt(squares / D + eps);
    typename E::type* to = y + r * D;
#pragma omp simd
    for (int i = 0; i < D; i++) to[i] = E::put(out[i] * s * gain[i]);
  }
}

// dx, the gradient of x behind the norm, becomes that before it; `out` is its copy.
template <class E>
void norm_backward(const typename E::type* dy, const float* x, const float* rstd, const float* gain,
                   float* dx, typename E::type* out, float* dgain, long rows, int D) {
  for (long r = 0; r < rows; r++) {
    const typename E::type* d = dy + r * D;
    const float* xr = x + r * D;
    float *to = dx + r * D, s = rstd[r], mean = 0;
#pragma omp simd reduction(+ : mean)
    for (int i = 0; i < D; i++) mean += E::get(d[i]) * gain[i] * xr[i];
    mean *= s * s / D;
    typename E::type* o = out + r * D;
#pragma omp simd
    for (int i = 0; i < D; i++) {
      float g = E::get(d[i]);
      dgain[i] += g * xr[i] * s;
      float v = to[i] + s * (g * gain[i] - xr[i] * mean);
      to[i] = v;
      o[i] = E::put(v);
    }
  }
}

enum Act { SILU, RELU, GELU };

inline Floats sigmoid(Floats x) {
  Floats z = x * -LOG2_E;
  return reciprocal(1.f + power(z < 126.f ? z : all(126.f)));
}

// The normal distribution function, by Abramowitz and Stegun 7.1.26 (erf within 1.5e-7).
inline Floats normal(Floats x) {
  Floats z = x < 0 ? -x : x;
  z = z * 0.70710678f;
  Floats t = 1.f / (1.f + 0.3275911f * z);
  Floats p = all(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  Floats tail = 0.5f * p * t * exponential(-z * z);
  return x < 0 ? tail : 1.f - tail;
}

// h (rows, F): silu(gate)·up of gu (rows, 2F), or relu or gelu of gu (rows, F). With dh, the
// gradient of h, dgu takes that of gu, which it may replace.
template <class E>
void activate(const typename E::type* gu, typename E::type* h, const typename E::type* dh,
              typename E::type* dgu, long rows, int F, int act) {
  const int width = act == SILU ? 2 * F : F;
  for (long r = 0; r < rows; r++) {
    const typename E::type* in = gu + r * width;
    for (int i = 0; i < F; i += LANES) {
      int n = std::min(LANES, F - i);
      Floats x = get<E>(in + i, n), value, slope, up{}, share{};
      if (act == SILU) {
        share = sigmoid(x);
        up = get<E>(in + F + i, n);
        value = x * share;
        slope = share * (1.f + x * (1.f - share)) * up;
      } else if (act == RELU) {
        value = largest(x, Floats{});
        slope = x > 0 ? all(1.f) : Floats{};
      } else {
        share = normal(x);
        value = x * share;
        slope = share + x * 0.39894228f * exponential(x * x * -0.5f);
      }
      put<E>(h + r * F + i, act == SILU ? value * up : value, n);
      if (dh) {
        Floats d = get<E>(dh + r * F + i, n);
        put<E>(dgu + r * width + i, d * slope, n);
        if (act == SILU) put<E>(dgu + r * width + F + i, d * value, n);
      }
    }
  }
}

// Negative log-likelihood of each target; logits (rows, V) become scale · its gradient if asked for.
template <class E>
void cross_entropy(typename E::type* logits, const int64_t* targets, float* nll, long rows, int V,
                   float scale, int gradient) {
  const int whole = V / LANES * LANES, rest = V - whole;
  for (long r = 0; r < rows; r++) {
    typename E::type* row = logits + r * V;
    Floats last = LANE < rest ? get<E>(row + whole, rest) : all(-INFINITY), high = last, added{};
    for (int i = 0; i < whole; i += LANES) high = largest(high, E::load16(row + i));
    const float top = maximum(high) * LOG2_E, at = E::get(row[targets[r]]);
    for (int i = 0; i < whole; i += LANES) added += power(E::load16(row + i) * LOG2_E - top);
    const float log2 = top + std::log2(sum(added + first(power(last * LOG2_E - top), rest)));
    nll[r] = log2 * LN_2 - at;
    if (!gradient) continue;
    for (int i = 0; i < V; i += LANES) {
      int n = std::min(LANES, V - i);
      put<E>(row + i, power(get<E>(row + i, n) * LOG2_E - log2) * scale, n);
    }
    row[targets[r]] = E::put((std::exp2(at * LOG2_E - log2) - 1.f) * scale);
  }
}

template <class E>
void accumulate(float* to, const typename E::type* from, long n) {
#pragma omp simd
  for (long i = 0; i < n; i++) to[i] += E::get(from[i]);
}

}  // namespace

#define KERNELS(E, T, name)                                                                        \
  void attention_forward_##name(const T* qkv, T* y, float* lse, const float* cosine,               \
                                const float* sine, const float* q_gain, const float* k_gain,       \
                                float eps, int B, int len, int N, int K, int H) {                  \
    attention_forward<E>({B, len, N, K, H, cosine, sine, q_gain, k_gain, eps}, qkv, y, lse);       \
  }                                                                                                \
  void attention_backward_##name(const T* qkv, const T* y, const float* lse, const T* dy, T* dqkv, \
                                 float* dq_gain, float* dk_gain, const float* cosine,              \
                                 const float* sine, const float* q_gain, const float* k_gain,      \
                                 float eps, int B, int len, int N, int K, int H) {                 \
    attention_backward<E>({B, len, N, K, H, cosine, sine, q_gain, k_gain, eps}, qkv, y, lse, dy,   \
                          dqkv, dq_gain, dk_gain);                                                 \
  }                                                                                                \
  void norm_forward_##name(const float* before, const T* delta, const float* gain, float* x, T* y, \
                           float* rstd, long rows, int D, float eps) {                             \
    norm_forward<E>(before, delta, gain, x, y, rstd, rows, D, eps);                                \
  }                                                                                                \
  void norm_backward_##name(const T* dy, const float* x, const float* rstd, const float* gain,     \
                            float* dx, T* out, float* dgain, long rows, int D) {                   \
    norm_backward<E>(dy, x, rstd, gain, dx, out, dgain, rows, D);                                  \
  }                                                                                                \
  void activate_##name(const T* gu, T* h, const T* dh, T* dgu, long rows, int F, int act) {        \
    activate<E>(gu, h, dh, dgu, rows, F, act);                                                     \
  }                                                                                                \
  void cross_entropy_##name(T* logits, const int64_t* targets, float* nll, long rows, int V,       \
                            float scale, int gradient) {                                           \
    cross_entropy<E>(logits, targets, nll, rows, V, scale, gradient);                              \
  }                                                                                                \
  void accumulate_##name(float* to, const T* from, long n) { accumulate<E>(to, from, n); }

extern "C" {
KERNELS(Bf16, uint16_t, bf16)
KERNELS(F32, float, fp32)

// Rows of dx (rows, D) added to the rows of `to` that ids name.
void embedding_backward(const int64_t* ids, const float* dx, float* to, long rows, int D) {
  for (long r = 0; r < rows; r++)
    for (int i = 0; i < D; i++) to[ids[r] * D + i] += dx[r * D + i];
}
}
