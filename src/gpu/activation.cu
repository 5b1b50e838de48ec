// Activations quantized while a model runs: as quantizer::quantize_activation and fake_quantize, one look at x for the scale, one for the codes.
#include "functions.h"
#include "portable.h"

namespace miq::gpu {
inline namespace MIQ_GPU_SPACE {
namespace {

constexpr int kThreads = 256, kGroups = kThreads / kGroup;

struct Extremes {
  float low[kGroups], high[kGroups];
};

// A block of threads for what shares a scale.
template <class T>
__global__ void __launch_bounds__(kThreads) quantize(miq_activation a) {
  MIQ_SHARED(Extremes, shared);
  const T* const x = static_cast<const T*>(a.x) + static_cast<int64_t>(blockIdx.x) * a.group;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kGroup;
  float low = INFINITY, high = -INFINITY;
  bool whole = true;  // no NaN
  for (int64_t i = thread; i < a.group; i += kThreads) {
    const float value = widen(x[i]);
    low = lesser(low, value);
    high = greater(high, value);
    whole = whole && value == value;
  }
  if (!whole) low = high = NAN;
  // A NaN on either side stays one: it is compared with itself.
  for (int mask = kGroup / 2; mask > 0; mask /= 2) {
    const float other_low = shuffle_xor(low, mask), other_high = shuffle_xor(high, mask);
    low = other_low < low || other_low != other_low ? other_low : low;
    high = other_high > high || other_high != other_high ? other_high : high;
  }
  if (thread % kGroup == 0) {
    shared.low[warp] = low;
    shared.high[warp] = high;
  }
  __syncthreads();
  low = shared.low[0];
  high = shared.high[0];
  for (int w = 1; w < kGroups; ++w) {
    low = shared.low[w] < low || shared.low[w] != shared.low[w] ? shared.low[w] : low;
    high = shared.high[w] > high || shared.high[w] != shared.high[w] ? shared.high[w] : high;
  }

  const float top = static_cast<float>((1 << (a.bits - 1)) - 1), least = -top - 1;
  const float largest = -low > high || low != low ? -low : high;
  float scale, zero = 0;
  if (a.format != 0) {
    scale = largest / fp8_max(a.format);
    scale = scale > 0 ? scale : kEpsilon;
  } else if (a.symmetric) {
    scale = (largest < 1e-5f ? 1e-5f : largest) / top;
  } else {
    const float steps = 2 * top + 1, smallest = static_cast<float>(1e-5 / static_cast<double>(steps));
    low = low > 0 ? 0.0f : low;
    high = high < 0 ? 0.0f : high;
    scale = (high - low) / steps;
    scale = scale < smallest ? smallest : scale;
    zero = clamped(nearbyintf(least - low / scale), least, top);
  }
  if (thread == 0 && a.scales != nullptr) a.scales[blockIdx.x] = scale;
  if (thread == 0 && a.zeros != nullptr) a.zeros[blockIdx.x] = zero;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * a.group;
  for (int64_t i = thread; i < a.group; i += kThreads) {
    float code = widen(x[i]) / scale;
    if (a.format != 0) {
      const FloatFormat format = float_format(a.format);
      code = round_floating(clamped(code, -fp8_max(a.format), fp8_max(a.format)), format.mantissa, format.least_exponent);
      if (a.codes != nullptr) static_cast<uint8_t*>(a.codes)[first + i] = fp8_byte(code, a.format);
    } else {
      code = clamped(nearbyintf(code) + zero, least, top);
      if (a.codes != nullptr) static_cast<int8_t*>(a.codes)[first + i] = static_cast<int8_t>(code);
    }
    if (a.values != nullptr) narrow((code - zero) * scale, static_cast<T*>(a.values)[first + i]);
  }
}

}  // namespace

int quantize_activation(const miq_activation* activation, void* stream) {
  const bool known = activation->format == 0 ? activation->bits >= 2 && activation->bits <= 8 : activation->format == 1 || activation->format == 2;
  if (!known || activation->group <= 0 || activation->columns % activation->group != 0) return kInvalid;
  const unsigned blocks = to_grid(activation->rows * (activation->columns / activation->group));
  return with_type(activation->type, [&](auto zero) { return launch(quantize<decltype(zero)>, blocks, kThreads, stream, *activation); });
}

}  // namespace MIQ_GPU_SPACE
}  // namespace miq::gpu
