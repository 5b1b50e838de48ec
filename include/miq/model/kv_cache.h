// Keys and values of the tokens so far, per layer. Shapes: B batch, K kv heads, T tokens, D head_dim.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace miq::model {

struct RecordedStep;

class KvCache {
 public:
  explicit KvCache(std::int64_t num_layers) : entries_(num_layers) {}
  std::int64_t length() const { return length_; }
  /// Appends keys and values [B, K, T, D] of `layer` and returns all of them so far.
  std::pair<at::Tensor, at::Tensor> append(std::int64_t layer, const at::Tensor& key, const at::Tensor& value);
  /// The buffers of `layer` [B, K, capacity, D], with room for `tokens` behind the length() that are held.
  std::pair<at::Tensor&, at::Tensor&> reserve(std::int64_t layer, std::int64_t tokens, const std::vector<std::int64_t>& sizes_BKD,
                                              const at::TensorOptions& options);
  /// To be called once per forward pass, after all layers: `tokens` more are held.
  void advance(std::int64_t tokens);
  /// length() as a GPU's kernels read it: int64 [1] on `device`, one and the same tensor for the cache's life.
  const at::Tensor& length_on(const at::Device& device);
  std::int64_t capacity() const { return entries_.front().key.defined() ? entries_.front().key.size(2) : 0; }
  /// A step of decoding with this cache, recorded; or null. It belongs to the model that forward() was called of.
  std::shared_ptr<RecordedStep>& recorded() { return recorded_; }
  /// To be called for a replayed step, in which the device counted by itself.
  void advance_recorded(std::int64_t tokens) { length_ += tokens; }

 private:
  struct Entry {
    at::Tensor key, value;  // capacity grows by doubling
  };
  std::vector<Entry> entries_;
  std::int64_t length_ = 0;
  at::Tensor device_length_;  // undefined until asked for
  std::shared_ptr<RecordedStep> recorded_;
};

}  // namespace miq::model
