#include "miq/model/rope.h"

#include <cmath>

#include "kernels.h"
#include "miq/core/error.h"

namespace miq::model {
namespace {

constexpr double kPi = 3.14159265358979323846;

// Llama 3.1: low frequencies are divided by `factor`, high ones stay, those between are mixed.
double llama3_frequency(double frequency, const Rope& rope) {
  const double wavelength = 2 * kPi / frequency;
  const auto original = static_cast<double>(rope.original_max_position_embeddings);
  if (wavelength < original / rope.high_freq_factor) return frequency;
  if (wavelength > original / rope.low_freq_factor) return frequency / rope.factor;
  const double smooth =
      (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

}  // namespace

at::Tensor inverse_frequencies(const Rope& rope, std::int64_t head_dim) {
  at::Tensor frequencies = at::empty({head_dim / 2}, at::kDouble);
  double* const out = frequencies.mutable_data_ptr<double>();
  for (std::int64_t k = 0; k < head_dim / 2; ++k) {
    const double frequency = std::pow(rope.theta, -2.0 * static_cast<double>(k) / static_cast<double>(head_dim));
    switch (rope.scaling) {
      case RopeScaling::none: out[k] = frequency; break;
      case RopeScaling::linear: out[k] = frequency / rope.factor; break;
      case RopeScaling::llama3: out[k] = llama3_frequency(frequency, rope); break;
    }
  }
  return frequencies;
}

RopeTable::RopeTable(const Architecture& architecture, std::int64_t positions, const at::Device& device) {
  // The angle is a float32 product in the reference; cos and sin follow from it.
  const at::Tensor frequencies = inverse_frequencies(architecture.rope, architecture.head_dim).to(at::kFloat);
  const at::Tensor angles = at::arange(positions, at::kFloat).unsqueeze(1) * frequencies.unsqueeze(0);
  cos_PD_ = angles.cos().to(device);
  sin_PD_ = angles.sin().to(device);
}

at::Tensor RopeTable::rotate(const at::Tensor& x_BNTD, std::int64_t first_position) const {
  const std::int64_t tokens = x_BNTD.size(2);
  if (first_position + tokens > positions())
    throw Error(ErrorKind::internal, "the rotary table ends at position " + std::to_string(positions()));
  const at::Tensor cos = cos_PD_.narrow(0, first_position, tokens), sin = sin_PD_.narrow(0, first_position, tokens);
  return kernels::rotate_half(x_BNTD, cos, sin);
}

}  // namespace miq::model
