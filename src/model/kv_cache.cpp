#include "miq/model/kv_cache.h"

#include <ATen/ATen.h>

namespace miq::model {
namespace {

// Room for `needed` tokens, of which `length` are held; a full buffer doubles.
void grow(at::Tensor& buffer, std::int64_t length, std::int64_t needed, const std::vector<std::int64_t>& sizes_BKD, const at::TensorOptions& options) {
  if (buffer.defined() && buffer.size(2) >= needed) return;
  const std::int64_t capacity = std::max<std::int64_t>(needed, buffer.defined() ? 2 * buffer.size(2) : 64);
  at::Tensor grown = at::empty({sizes_BKD[0], sizes_BKD[1], capacity, sizes_BKD[2]}, options);
  if (length > 0) grown.narrow(2, 0, length).copy_(buffer.narrow(2, 0, length));
  buffer = grown;
}

}  // namespace

std::pair<at::Tensor&, at::Tensor&> KvCache::reserve(std::int64_t layer, std::int64_t tokens, const std::vector<std::int64_t>& sizes_BKD,
                                                     const at::TensorOptions& options) {
  Entry& entry = entries_.at(static_cast<size_t>(layer));
  grow(entry.key, length_, length_ + tokens, sizes_BKD, options);
  grow(entry.value, length_, length_ + tokens, sizes_BKD, options);
  return {entry.key, entry.value};
}

std::pair<at::Tensor, at::Tensor> KvCache::append(std::int64_t layer, const at::Tensor& key, const at::Tensor& value) {
  const std::int64_t tokens = key.size(2);
  const auto [keys, values] = reserve(layer, tokens, {key.size(0), key.size(1), key.size(3)}, key.options());
  keys.narrow(2, length_, tokens).copy_(key);
  values.narrow(2, length_, tokens).copy_(value);
  return {keys.narrow(2, 0, length_ + tokens), values.narrow(2, 0, length_ + tokens)};
}

void KvCache::advance(std::int64_t tokens) {
  length_ += tokens;
  if (device_length_.defined()) device_length_.add_(tokens);
}

const at::Tensor& KvCache::length_on(const at::Device& device) {
  if (!device_length_.defined()) device_length_ = at::full({1}, length_, at::TensorOptions().dtype(at::kLong).device(device));
  return device_length_;
}

}  // namespace miq::model
