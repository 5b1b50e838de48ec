// A checkpoint in memory, whose tensors a test can change.
#pragma once

#include <map>
#include <string>

#include "miq/core/checkpoint.h"
#include "miq/core/error.h"
#include "miq/format/format.h"

namespace miq::format::test {

class MemorySource : public TensorSource {
 public:
  std::map<std::string, at::Tensor> tensors;

  MemorySource() = default;
  explicit MemorySource(const std::vector<NamedTensor>& all) {
    for (const NamedTensor& t : all) tensors[t.name] = t.tensor;
  }
  std::vector<TensorSpec> specs() const override {
    std::vector<TensorSpec> out;
    for (const auto& [name, tensor] : tensors) out.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
    return out;
  }
  bool has(const std::string& name) const override { return tensors.count(name) != 0; }
  at::Tensor tensor(const std::string& name) const override {
    if (!has(name)) throw Error(ErrorKind::io, "no such tensor", name);
    return tensors.at(name);
  }
  std::int64_t bytes() const override { return 0; }
};

}  // namespace miq::format::test
