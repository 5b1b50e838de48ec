#include "miq/model/kv_cache.h"

#include "miq/core/error.h"

namespace miq::model {
namespace {

// Copies `rows` behind the first `length` tokens of `buffer`, which doubles when it is full.
at::Tensor append_rows(at::Tensor& buffer, const at::Tensor& rows_BKTD, std::int64_t length) {
  const std::int64_t needed = length + rows_BKTD.size(2);
  if (!buffer.defined() || buffer.size(2) < needed) {
    auto sizes = rows_BKTD.sizes().vec();
    sizes[2] = std::max<std::int64_t>(needed, buffer.defined() ? 2 * buffer.size(2) : 64);
    at::Tensor grown = at::empty(sizes, rows_BKTD.options());
    if (length > 0) grown.narrow(2, 0, length).copy_(buffer.narrow(2, 0, length));
    buffer = grown;
  }
  buffer.narrow(2, length, rows_BKTD.size(2)).copy_(rows_BKTD);
  return buffer.narrow(2, 0, needed);
}

}  // namespace

std::pair<at::Tensor, at::Tensor> KvCache::append(std::int64_t layer, const at::Tensor& key, const at::Tensor& value) {
  Entry& entry = entries_.at(static_cast<size_t>(layer));
  return {append_rows(entry.key, key, length_), append_rows(entry.value, value, length_)};
}

}  // namespace miq::model
