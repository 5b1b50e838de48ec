// Of `miq doctor`: whether this machine computes what it should, in a few milliseconds.
#include <ATen/ATen.h>

#include "doctor_checks.h"
#include "miq/quantizer/linear_problem.h"
#include "miq/quantizer/packed_linear.h"

namespace miq::executor {
namespace {

using Json = nlohmann::ordered_json;

// Numbers of a stream that no state of the process changes, about normal.
at::Tensor numbers(std::int64_t rows, std::int64_t columns, double seed) {
  const at::Tensor k = at::arange(rows * columns, at::kDouble) + seed;
  return ((k * 12.9898).sin() * 43758.5453).frac().mul(1.7).view({rows, columns}).to(at::kFloat);
}

double relative(const at::Tensor& a, const at::Tensor& b) { return (a.to(at::kDouble) - b.to(at::kDouble)).norm().item<double>() / b.to(at::kDouble).norm().item<double>(); }

Json compared(const std::string& what, double error, double most) {
  char text[64];
  std::snprintf(text, sizeof text, ": relative error %.1e", error);
  const bool right = error <= most;  // a NaN is not
  return make_check("self-test", right ? "ok" : "problem", what + text, right ? "" : "this processor or LibTorch computes wrongly: try another LibTorch, or ATEN_CPU_CAPABILITY=default", {{"relative_error", error}, {"most", most}});
}

}  // namespace

Checks check_arithmetic() {
  Checks checks;
  const at::Tensor x = numbers(67, 256, 0.5), w = numbers(96, 256, 7e4);
  const at::Tensor exact = at::matmul(x.to(at::kDouble), w.to(at::kDouble).t());
  checks.push_back(compared("a product in float32", relative(at::matmul(x, w.t()), exact), 1e-5));
  checks.push_back(compared("a product in bfloat16", relative(at::matmul(x.to(at::kBFloat16), w.t().to(at::kBFloat16)), exact), 1e-2));
  for (const int bits : {4, 3}) {
    quantizer::Grid grid;
    grid.bits = bits;
    grid.granularity = quantizer::Granularity::group;
    grid.group_size = 64;
    const quantizer::QuantizedLinear linear = quantizer::round_linear({"self-test", w, nullptr}, grid, {}, {});
    const quantizer::PackedLinear packed(linear);
    const at::Tensor dense = packed.dequantize(at::kFloat).to(at::kDouble), row = x.narrow(0, 0, 3);
    checks.push_back(compared("our kernel of " + std::to_string(bits) + "-bit codes against plain products", relative(packed.forward(row), at::matmul(row.to(at::kDouble), dense.t())), 1e-4));
  }
  return checks;
}

}  // namespace miq::executor
