// Numbers of three types, and their exponential.
//
// SCALAR is float, double or bf16; bf16 is computed with in float.

#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

namespace {

struct bf16 {
  uint16_t bits;
};
template <class T> struct Accumulator { using type = T; };
template <> struct Accumulator<bf16> { using type = float; };

using T = SCALAR;
using A = Accumulator<T>::type;
constexpr A infinity = std::numeric_limits<A>::infinity();

inline float load(float x) { return x; }
inline double load(double x) { return x; }
inline float load(bf16 x) {
  uint32_t wide = uint32_t(x.bits) << 16;
  float out;
  std::memcpy(&out, &wide, 4);
  return out;
}
inline void store(float& to, float x) { to = x; }
inline void store(double& to, double x) { to = x; }
inline void store(bf16& to, float x) {
  uint32_t wide;
  std::memcpy(&wide, &x, 4);
  const uint32_t nearest_even = wide + 0x7fff + ((wide >> 16) & 1);
  to.bits = uint16_t((x == x ? nearest_even : (wide | 0x400000)) >> 16);
}

template <class X> struct Exponential;
template <> struct Exponential<float> {
  using Bits = int32_t;
  static constexpr int degree = 7, mantissa = 23, bias = 127;
  static constexpr float lowest = -87.0f, round = 12582912.0f;  // 1.5 * 2^23
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
};
template <> struct Exponential<double> {
  using Bits = int64_t;
  static constexpr int degree = 13, mantissa = 52, bias = 1023;
  static constexpr double lowest = -708.0, round = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
};

// exp(x) = 2^n exp(r) with |r| <= ln(2) / 2, by its series; 0 below the normal numbers. Plain
// arithmetic, so that a loop over it becomes vector instructions.
inline A exponential(A x) {
  using X = Exponential<A>;
  const A bounded = x < X::lowest ? X::lowest : x;
  const A n = (bounded * A(1.44269504088896340736) + X::round) - X::round;
  const A r = (bounded - n * X::ln2_high) - n * X::ln2_low;
  A sum = 1;
  for (int power = X::degree; power > 0; --power) sum = 1 + sum * r * (A(1) / A(power));
  const X::Bits bits = (X::Bits(n) + X::bias) << X::mantissa;
  A two_to_n;
  std::memcpy(&two_to_n, &bits, sizeof(A));
  return x < X::lowest ? A(0) : sum * two_to_n;
}

}  // namespace
