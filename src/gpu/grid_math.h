// The arithmetic of grids, one weight or one group at a time: the CPU's tiles (quantizer/row_tile.h, tile_grid.h) and the kernels
// of this folder share it. The conventions of spec/algorithms section 1, in the references' float32 operations and their order.
#pragma once

#include <math.h>

#include "kernels.h"

#if defined(__CUDACC__) || defined(__HIPCC__)
#define MIQ_HOST_DEVICE __host__ __device__
#else
#define MIQ_HOST_DEVICE
#endif

// One namespace for each way of compiling: a program with the tests' emulation holds several, whose inline functions differ in MIQ_FMA.
#if defined(MIQ_GPU_EMULATED)
#define MIQ_GPU_SPACE emulated
#elif defined(__CUDACC__) || defined(__HIPCC__)
#define MIQ_GPU_SPACE device
#else
#define MIQ_GPU_SPACE host
#endif

// a * b + c as one operation. The CPU's loops leave it to the compiler, which fuses wherever the instruction set can: fmaf would be a
// call where it cannot. Device code is compiled without contraction, so that nothing is fused there but this.
#if defined(MIQ_GPU_EMULATED) || defined(__CUDACC__) || defined(__HIPCC__)
#define MIQ_FMA(a, b, c) fmaf(a, b, c)
#else
#define MIQ_FMA(a, b, c) ((a) * (b) + (c))
#endif

namespace miq::gpu {
inline namespace MIQ_GPU_SPACE {

MIQ_HOST_DEVICE inline int32_t bits_of(float x) { return __builtin_bit_cast(int32_t, x); }
MIQ_HOST_DEVICE inline float float_of(int32_t bits) { return __builtin_bit_cast(float, bits); }
MIQ_HOST_DEVICE inline float lesser(float a, float b) { return b < a ? b : a; }
MIQ_HOST_DEVICE inline float greater(float a, float b) { return a < b ? b : a; }
MIQ_HOST_DEVICE inline float clamped(float x, float low, float high) { return x < low ? low : high < x ? high : x; }

/// Round half to even for |x| < 2^22, where codes lie: two additions that vectorise everywhere.
MIQ_HOST_DEVICE inline float round_half_even(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (x + kMagic) - kMagic;
}

/// A floating format of few bits: mantissa bits and the exponent of the least normal number.
struct FloatFormat {
  int mantissa, least_exponent, bits;
};
MIQ_HOST_DEVICE constexpr FloatFormat float_format(int type) {  // of a grid: 1 fp8_e4m3, 2 fp8_e5m2
  return type == 1 ? FloatFormat{3, -6, 8} : FloatFormat{2, -14, 8};
}
MIQ_HOST_DEVICE constexpr FloatFormat half_format() { return {10, -14, 16}; }

/// x rounded to a floating format: to a multiple of 2^(its exponent - mantissa), half to even. No largest number is minded.
MIQ_HOST_DEVICE inline float round_floating(float x, int mantissa, int least_exponent) {
  const int32_t exponent = (bits_of(x) >> 23 & 0xff) - 127;
  const int32_t step = (exponent > least_exponent ? exponent : least_exponent) - mantissa;
  const float up = float_of((127 - step) << 23), down = float_of((127 + step) << 23);
  return copysignf(round_half_even(x * up) * down, x);
}

/// The bits of a finite number of the format.
MIQ_HOST_DEVICE inline uint32_t encode_floating(float x, FloatFormat format) {
  const int32_t bits = bits_of(x), magnitude = bits & 0x7fffffff, exponent = (magnitude >> 23) - 127;
  const uint32_t sign = static_cast<uint32_t>(bits < 0) << (format.bits - 1);
  if (exponent < format.least_exponent) return sign | static_cast<uint32_t>(float_of(magnitude) * float_of((127 + format.mantissa - format.least_exponent) << 23));
  const int32_t fraction = magnitude >> (23 - format.mantissa) & ((1 << format.mantissa) - 1);
  return sign | static_cast<uint32_t>((exponent - format.least_exponent + 1) << format.mantissa | fraction);
}

/// And back. What formats keep for infinities and NaNs is read as a number.
MIQ_HOST_DEVICE inline float decode_floating(uint32_t bits, FloatFormat format) {
  const int32_t magnitude = static_cast<int32_t>(bits & ((1u << (format.bits - 1)) - 1)), exponent = magnitude >> format.mantissa;
  const int32_t fraction = magnitude & ((1 << format.mantissa) - 1);
  const float value = exponent == 0 ? static_cast<float>(fraction) * float_of((127 + format.least_exponent - format.mantissa) << 23)
                                    : float_of((exponent + format.least_exponent + 126) << 23 | fraction << (23 - format.mantissa));
  return bits >> (format.bits - 1) & 1 ? -value : value;
}

/// The byte of a number of the fp8 type, which may be NaN.
MIQ_HOST_DEVICE inline uint8_t fp8_byte(float x, int type) {
  if (x != x) return static_cast<uint8_t>(bits_of(x) < 0 ? 0xff : 0x7f);
  return static_cast<uint8_t>(encode_floating(x, float_format(type)));
}
MIQ_HOST_DEVICE inline float fp8_value(uint8_t byte, int type) {
  const int magnitude = byte & 0x7f;
  if (magnitude == 0x7f || (type == 2 && magnitude > 0x7c)) return float_of(byte >> 7 ? static_cast<int32_t>(0xffc00000u) : 0x7fc00000);
  if (type == 2 && magnitude == 0x7c) return float_of(byte >> 7 ? static_cast<int32_t>(0xff800000u) : 0x7f800000);
  return decode_floating(byte, float_format(type));
}
/// Largest number of an fp8 type.
MIQ_HOST_DEVICE inline float fp8_max(int type) { return type == 2 ? 57344.0f : 448.0f; }

/// `value` as a number of MIQ_FLOAT16, MIQ_BFLOAT16 or MIQ_FLOAT32: rounded to nearest even, but never to 0 or infinity, which a scale
/// must not be.
MIQ_HOST_DEVICE inline float stored_number(float value, int store) {
  const int32_t magnitude = bits_of(value) & 0x7fffffff;
  if (store == MIQ_FLOAT32 || magnitude == 0 || magnitude >= 0x7f800000) return value;
  float rounded;
  if (store == MIQ_FLOAT16) {
    constexpr float kLeast = 5.9604644775390625e-8f, kLargest = 65504.0f;
    rounded = greater(kLeast, round_floating(lesser(float_of(magnitude), kLargest), half_format().mantissa, half_format().least_exponent));
  } else {
    constexpr int32_t kLargest = 0x7f7f0000;
    const int32_t kept = magnitude < kLargest ? magnitude : kLargest;
    rounded = float_of((kept + 0x7fff + (kept >> 16 & 1)) & static_cast<int32_t>(0xffff0000u));
  }
  return copysignf(rounded, value);
}

/// |x|^norm, within 1e-6 of its value; 0 for 0. Plain arithmetic, so that loops over it vectorise.
MIQ_HOST_DEVICE inline float power(float x, float norm) {
  const float magnitude = fabsf(x);
  const int32_t bits = bits_of(magnitude);
  // log2: the exponent, and atanh's series on a mantissa in [0.7, 1.4].
  const int32_t shift = (bits - 0x3f3504f3) >> 23;
  const float mantissa = float_of(bits - (shift << 23));
  const float t = (mantissa - 1) / (mantissa + 1), t2 = t * t;
  const float series = MIQ_FMA(t2, MIQ_FMA(t2, MIQ_FMA(t2, MIQ_FMA(t2, 0.32f, 0.4121985831f), 0.5770780164f), 0.9617966940f), 2.885390082f);
  const float exponent = norm * MIQ_FMA(t, series, static_cast<float>(shift));
  // exp2: whole part into the exponent, the rest by its series.
  const float bounded = lesser(greater(exponent, -126.0f), 126.0f);
  const float whole = round_half_even(bounded), f = bounded - whole;
  float fraction = MIQ_FMA(f, 0.000154f, 0.001333355815f);
  fraction = MIQ_FMA(f, fraction, 0.009618129108f);
  fraction = MIQ_FMA(f, fraction, 0.05550410866f);
  fraction = MIQ_FMA(f, fraction, 0.2402265070f);
  fraction = MIQ_FMA(f, fraction, 0.6931471806f);
  fraction = MIQ_FMA(f, fraction, 1.0f);
  const float scaled = fraction * float_of((static_cast<int32_t>(whole) + 127) << 23);
  return magnitude > 0 ? scaled : 0.0f;
}

/// How a grid rounds. With c = round_half_even(clamp(w / scale + offset, low, high)) the code is c + base and the value
/// scale * (c - offset). Conventions that add the zero before rounding have an offset, the others 0: it decides ties.
struct Fitted {
  float scale, zero, offset, low, high, base;
};

/// A rounded weight: its code (of a floating grid: the rounded number itself) and its value in units of the scale.
struct Rounded {
  float code, steps;
};

MIQ_HOST_DEVICE inline Rounded round_whole(float w, float scale, float offset, float low, float high, float base) {
  float code = w / scale + offset;
  code = code < low ? low : code;
  code = code > high ? high : code;
  code = round_half_even(code);
  return {code + base, code - offset};
}

MIQ_HOST_DEVICE inline Rounded round_to_float(float w, float scale, float low, float high, int mantissa, int least_exponent) {
  float x = w / scale;
  x = x < low ? low : x;
  x = x > high ? high : x;
  x = round_floating(x, mantissa, least_exponent);
  return {x, x};
}

MIQ_HOST_DEVICE inline Rounded round_weight(float w, const Fitted& g, const miq_grid& grid) {
  if (grid.type == 0) return round_whole(w, g.scale, g.offset, g.low, g.high, g.base);
  const FloatFormat format = float_format(grid.type);
  return round_to_float(w, g.scale, g.low, g.high, format.mantissa, format.least_exponent);
}

/// The byte that stores a code.
MIQ_HOST_DEVICE inline uint8_t code_byte(float code, int type) { return type == 0 ? static_cast<uint8_t>(code) : fp8_byte(code, type); }

/// w - value and value - w.
MIQ_HOST_DEVICE inline float weight_minus_value(float w, float scale, float steps) { return MIQ_FMA(-scale, steps, w); }
MIQ_HOST_DEVICE inline float value_minus_weight(float w, float scale, float steps) { return MIQ_FMA(scale, steps, -w); }

MIQ_HOST_DEVICE inline float top_of(const miq_grid& grid) { return static_cast<float>((1 << grid.bits) - 1); }
MIQ_HOST_DEVICE inline float half_of(const miq_grid& grid) { return static_cast<float>(1 << (grid.bits - 1)); }

enum Convention { kMiq, kIst, kAwq, kCt, kAbsmax, kSpqr, kQuip, kHqq };
constexpr float kEpsilon = 1.1920928955078125e-7f;  // of float32

/// The way of rounding that goes with a scale and a zero.
MIQ_HOST_DEVICE inline Fitted finish(float scale, float zero, const miq_grid& grid) {
  if (grid.type != 0) return {scale, 0, 0, -fp8_max(grid.type), fp8_max(grid.type), 0};
  const float top = top_of(grid), half = half_of(grid);
  switch (grid.convention) {
    case kCt: return {scale, zero, zero - half, -half, half - 1, half};
    case kSpqr:
    case kQuip:
    case kHqq: return {scale, zero, zero, 0, top, 0};  // the zero is added before rounding
    default: return {scale, zero, 0, -zero, top - zero, zero};
  }
}

struct Interval {
  float low, high;
};

/// The interval that GPTQ's quantizer spans for raw extremes.
MIQ_HOST_DEVICE inline Interval ist_interval(float low, float high, const miq_grid& grid) {
  low = lesser(low, 0.0f);
  high = greater(high, 0.0f);
  if (grid.symmetric) {
    high = greater(-low, high);
    if (low < 0 || grid.convention == kMiq) low = -high;
  }
  // Nothing but zeros, or weights so small that the scale would lose its digits.
  constexpr float kLeast = 256 * 1.17549435082228750797e-38f;
  if (high - low < kLeast) return {-1, 1};
  return {low, high};
}

// nearbyintf rounds half to even.
MIQ_HOST_DEVICE inline Fitted fit_ist(Interval interval, const miq_grid& grid) {
  const float top = top_of(grid), scale = stored_number((interval.high - interval.low) / top, grid.scale_type);
  return finish(scale, grid.symmetric ? (top + 1) / 2 : nearbyintf(-interval.low / scale), grid);
}

MIQ_HOST_DEVICE inline Fitted fit_awq(float low, float high, const miq_grid& grid) {
  const float top = top_of(grid), half = half_of(grid);
  if (grid.symmetric) return finish(stored_number(greater(greater(-low, high), 1e-5f) / (half - 1), grid.scale_type), half, grid);
  const float scale = stored_number(greater(high - low, 1e-5f) / top, grid.scale_type);
  return finish(scale, clamped(-nearbyintf(low / scale), 0.0f, top), grid);
}

MIQ_HOST_DEVICE inline Fitted fit_ct(float low, float high, const miq_grid& grid) {
  const float top = top_of(grid), half = half_of(grid);
  low = lesser(low, 0.0f);
  high = greater(high, 0.0f);
  // compressed-tensors gives a group of zeros the scale eps and the (signed) zero point 0.
  if (low == high) return finish(kEpsilon, half, grid);
  if (grid.symmetric) {
    const float scale = stored_number(greater(-low, high) / (top / 2), grid.scale_type);
    return finish(scale == 0 ? kEpsilon : scale, half, grid);
  }
  const float scale = stored_number((high - low) / top, grid.scale_type);
  if (scale == 0) return finish(kEpsilon, half, grid);  // underflow
  return finish(scale, nearbyintf(clamped(-half - low / scale, -half, half - 1)) + half, grid);
}

MIQ_HOST_DEVICE inline Fitted fit_spqr(float low, float high, const miq_grid& grid) {
  const float top = top_of(grid);
  if (grid.symmetric) {
    high = greater(fabsf(low), high);
    if (low < 0) low = -high;
  }
  if (low == high) low = -1, high = 1;
  const float scale = stored_number((high - low) / top, grid.scale_type);
  float zero = -low / scale;
  if (grid.symmetric) zero = (top + 1) / 2;
  else zero = grid.real_zeros ? stored_number(zero, grid.scale_type) : nearbyintf(zero);
  return finish(scale, zero, grid);
}

MIQ_HOST_DEVICE inline Fitted fit_hqq(float low, float high, const miq_grid& grid) {
  const float range = high - low;
  const float inverse = range <= 1e-4f ? 1.0f : lesser(top_of(grid) / range, 2e4f);
  const float zero = -low * inverse;
  return finish(1 / inverse, grid.real_zeros ? zero : nearbyintf(zero), grid);
}

MIQ_HOST_DEVICE inline Fitted fit_fp8(float low, float high, const miq_grid& grid) {
  const float scale = stored_number(greater(-low, high) / fp8_max(grid.type), grid.scale_type);
  return finish(scale > 0 ? scale : kEpsilon, 0, grid);
}

/// Scale and zero for weights between low and high.
MIQ_HOST_DEVICE inline Fitted fit_interval(float low, float high, const miq_grid& grid) {
  if (grid.type != 0) return fit_fp8(low, high, grid);
  switch (grid.convention) {
    case kAwq: return fit_awq(low, high, grid);
    case kCt: return fit_ct(low, high, grid);
    case kAbsmax: return finish(stored_number(greater(greater(-low, high), 1e-5f) / (half_of(grid) - 1), grid.scale_type), half_of(grid), grid);
    case kSpqr: return fit_spqr(low, high, grid);
    case kQuip: return finish(stored_number(2 * greater(greater(-low, high), 1e-16f) / top_of(grid), grid.scale_type), top_of(grid) / 2, grid);
    case kHqq: return fit_hqq(low, high, grid);
    default: return fit_ist(ist_interval(low, high, grid), grid);
  }
}

/// Step `step` of the search for the least error: the interval of raw extremes shrunk, and what fits it.
struct Candidate {
  Fitted fitted;
  Interval part;
};
MIQ_HOST_DEVICE inline bool spans_ist(const miq_grid& grid) { return grid.type == 0 && (grid.convention == kMiq || grid.convention == kIst); }
MIQ_HOST_DEVICE inline Candidate shrunk_fit(float low, float high, int step, const miq_range& range, const miq_grid& grid) {
  const float p = static_cast<float>(1 - static_cast<double>(step) / range.grid);
  const bool ist = spans_ist(grid);
  const Interval whole = ist ? ist_interval(low, high, grid) : Interval{low, high};
  const Interval part = {p * whole.low, p * whole.high};
  return {ist ? fit_ist(part, grid) : fit_interval(part.low, part.high, grid), part};
}

/// Whether the whole zero on the other side is tried too (GPTQModel at 2 bits, asymmetric).
MIQ_HOST_DEVICE inline bool tries_other_zero(const miq_range& range, const miq_grid& grid) {
  return range.adjacent_zeros && spans_ist(grid) && !grid.symmetric && grid.bits == 2;
}
/// The fit with that zero; false where there is none.
MIQ_HOST_DEVICE inline bool other_zero(const Candidate& of, const miq_grid& grid, Fitted& other) {
  const float zero = of.fitted.zero > -of.part.low / of.fitted.scale ? of.fitted.zero - 1 : of.fitted.zero + 1;
  if (zero < 0 || zero > top_of(grid)) return false;
  other = finish(of.fitted.scale, zero, grid);
  return true;
}

}  // namespace MIQ_GPU_SPACE
}  // namespace miq::gpu
