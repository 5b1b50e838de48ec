// Decoding steps on a GPU, recorded once for a cache and replayed.
#pragma once

#include "miq/core/device_graph.h"
#include "miq/model/kv_cache.h"

namespace miq::model {

struct RecordedStep {
  std::int64_t eager_steps = 0;  ///< done since the buffers last grew
  std::int64_t capacity = 0;     ///< of the buffers that the recording writes
  const void* rope = nullptr;    ///< and the rotary table that it reads
  at::Tensor ids_B1, logits;
  std::unique_ptr<DeviceGraph> graph;

  bool fits(const KvCache& cache, const void* table, const at::Tensor& ids) const {
    return graph != nullptr && capacity == cache.capacity() && cache.length() < capacity && rope == table && ids_B1.sizes() == ids.sizes();
  }
};

}  // namespace miq::model
