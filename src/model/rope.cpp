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
  const double smooth = (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

// YaRN: dimensions that turn more than beta_fast times over the original context stay, those below
// beta_slow turns are divided by `factor`, a linear ramp over the dimensions lies between.
double yarn_frequency(double frequency, std::int64_t k, std::int64_t rotated, const Rope& rope) {
  const auto dim = static_cast<double>(rotated), original = static_cast<double>(rope.original_max_position_embeddings);
  const auto dimension_of = [&](double turns) {
    return dim * std::log(original / (turns * 2 * kPi)) / (2 * std::log(rope.theta));
  };
  const double low = std::max(std::floor(dimension_of(rope.beta_fast)), 0.0);
  double high = std::min(std::ceil(dimension_of(rope.beta_slow)), dim - 1);
  if (low == high) high += 0.001;
  const double ramp = std::clamp((static_cast<double>(k) - low) / (high - low), 0.0, 1.0);
  return frequency / rope.factor * ramp + frequency * (1 - ramp);
}

}  // namespace

at::Tensor inverse_frequencies(const Rope& rope, std::int64_t dim) {
  at::Tensor frequencies = at::empty({dim / 2}, at::kDouble);
  double* const out = frequencies.mutable_data_ptr<double>();
  for (std::int64_t k = 0; k < dim / 2; ++k) {
    const double frequency = std::pow(rope.theta, -2.0 * static_cast<double>(k) / static_cast<double>(dim));
    switch (rope.scaling) {
      case RopeScaling::none:
        out[k] = frequency;
        break;
      case RopeScaling::linear:
        out[k] = frequency / rope.factor;
        break;
      case RopeScaling::llama3:
        out[k] = llama3_frequency(frequency, rope);
        break;
      case RopeScaling::factors:
        out[k] = frequency / rope.factors.at(static_cast<size_t>(k));
        break;
      case RopeScaling::yarn:
        out[k] = yarn_frequency(frequency, k, dim, rope);
        break;
    }
  }
  return frequencies;
}

at::Tensor alibi_slopes(std::int64_t heads) {
  std::int64_t power = 1;
  while (2 * power <= heads) power *= 2;
  at::Tensor slopes = at::empty({heads}, at::kFloat);
  float* const out = slopes.mutable_data_ptr<float>();
  const auto p = static_cast<double>(power);
  for (std::int64_t h = 0; h < heads; ++h)
    out[h] = static_cast<float>(h < power ? std::exp2(-8.0 * static_cast<double>(h + 1) / p)
                                          : std::exp2(-4.0 * static_cast<double>(2 * (h - power) + 1) / p));
  return slopes;
}

RopeTable::RopeTable(const Architecture& architecture, std::int64_t positions, const at::Device& device)
    : positions_(positions), interleaved_(architecture.rope.interleaved) {
  if (architecture.positions == Positions::alibi) {
    alibi_slopes_N_ = alibi_slopes(architecture.num_heads).to(device);
    return;
  }
  const Rope& rope = architecture.rope;
  if (rope.max_positions > 0 && positions > rope.max_positions)
    throw Error(ErrorKind::unsupported,
                "a text of " + std::to_string(positions) +
                    " tokens with dynamic rotary scaling, which is only supported up to the " +
                    std::to_string(rope.max_positions) + " positions of max_position_embeddings",
                "", "use shorter texts");
  // The angle is a float32 product in the reference; cos and sin follow from it.
  const at::Tensor frequencies = inverse_frequencies(rope, architecture.rotary_dim()).to(at::kFloat);
  const at::Tensor angles = at::arange(positions, at::kFloat).unsqueeze(1) * frequencies.unsqueeze(0);
  cos_PD_ = (angles.cos() * rope.attention_factor).to(device);
  sin_PD_ = (angles.sin() * rope.attention_factor).to(device);
}

at::Tensor RopeTable::rotate(const at::Tensor& x_BNTD, std::int64_t first_position) const {
  const std::int64_t tokens = x_BNTD.size(2);
  if (!cos_PD_.defined()) return x_BNTD;
  if (first_position + tokens > positions())
    throw Error(ErrorKind::internal, "the rotary table ends at position " + std::to_string(positions()));
  const at::Tensor cos = cos_PD_.narrow(0, first_position, tokens), sin = sin_PD_.narrow(0, first_position, tokens);
  return kernels::rotate_pairs(x_BNTD, cos, sin, interleaved_);
}

at::Tensor RopeTable::rotate_at(const at::Tensor& x_BNTD, const at::Tensor& positions_T) const {
  if (!cos_PD_.defined()) return x_BNTD;
  const at::Tensor places = positions_T.to(cos_PD_.device());
  return kernels::rotate_pairs(x_BNTD, cos_PD_.index_select(0, places), sin_PD_.index_select(0, places), interleaved_);
}

}  // namespace miq::model
