// A linear layer whose product can be replaced, for example by one on quantized codes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace miq::model {

/// A product x -> x W^T from another form of the weight. Implementations are re-entrant.
class LinearKernel {
 public:
  virtual ~LinearKernel() = default;
  /// x [..., I] of any floating type -> [..., O] of the same type; without bias.
  virtual at::Tensor forward(const at::Tensor& x) const = 0;
  /// The products of one x with `kernels`, of which this is the first: what is made of x can be shared.
  virtual std::vector<at::Tensor> forward_many(const std::vector<const LinearKernel*>& kernels, const at::Tensor& x) const;
  virtual std::int64_t bytes() const = 0;
};

/// Kernels of linears that a checkpoint stores in another form than a plain weight.
class KernelSource {
 public:
  virtual ~KernelSource() = default;
  virtual bool has(const std::string& linear) const = 0;
  /// Reads the linear; each call makes one of its own. Null: its values need the dense weight after all.
  virtual std::shared_ptr<const LinearKernel> kernel(const std::string& linear) const = 0;
  virtual std::int64_t bytes(const std::string& linear) const = 0;  ///< that the kernel will take, about
};

struct Linear {
  std::string name;  ///< full, without ".weight": "model.layers.0.self_attn.q_proj"
  at::Tensor
      weight_OI;      ///< floating, any type (possibly a read-only view of a file); undefined once a kernel stands in
  at::Tensor bias_O;  ///< or undefined
  std::shared_ptr<const LinearKernel> kernel;

  std::int64_t out_features = 0, in_features = 0;
  bool biased = false;  ///< the checkpoint has a bias
  bool exists() const { return out_features > 0; }
  /// x W^T + b in x's type; a weight of another type is converted for this call only.
  at::Tensor forward(const at::Tensor& x) const;
};

/// The products of linears that read the same x, in their order.
std::vector<at::Tensor> forward_many(const std::vector<const Linear*>& linears, const at::Tensor& x);

}  // namespace miq::model
