#include "block_reader.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "miq/core/device_memory.h"
#include "miq/core/log.h"

namespace miq::model {
BlockReader::BlockReader(std::shared_ptr<const TensorSource> source, const at::Device& device)
    : source_(std::move(source)), device_(device), stream_(c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device)) {}

BlockReader::~BlockReader() {
  try {
    drop();
  } catch (...) {  // nobody wants to know any more
  }
}

BlockReader::Ahead BlockReader::read(const std::vector<std::string>& names) const {
  const c10::StreamGuard side(stream_);
  Ahead ahead;
  try {
    for (const std::string& name : names) {
      const at::Tensor stored = source_->tensor(name);
      ahead.pinned.push_back(host_tensor(stored.sizes(), stored.scalar_type()).copy_(stored));
      ahead.on_device[name] = ahead.pinned.back().to(device_, /*non_blocking=*/true);
    }
    ahead.copied.emplace(device_.type());
    ahead.copied->record(stream_);
  } catch (const c10::OutOfMemoryError&) {
    c10::impl::VirtualGuardImpl(device_.type()).synchronizeStream(stream_);  // what is copied from the memory that goes now
    log_debug("the device has no room for a block ahead");
    return {};
  } catch (...) {
    c10::impl::VirtualGuardImpl(device_.type()).synchronizeStream(stream_);
    throw;
  }
  return ahead;
}

void BlockReader::drop() {
  layer_ = -1;
  if (ahead_.valid()) {
    const std::future<Ahead> dropped = std::move(ahead_);
    dropped.wait();
    c10::impl::VirtualGuardImpl(device_.type()).synchronizeStream(stream_);
  }
  if (last_ && last_->copied) last_->copied->synchronize();
  last_.reset();
}

void BlockReader::begin(std::int64_t layer, std::vector<std::string> names) {
  if (layer_ == layer) return;
  drop();
  layer_ = layer;
  ahead_ = std::async(std::launch::async, [this, names = std::move(names), inference = c10::InferenceMode::is_enabled()] {
    const c10::InferenceMode mode(inference);
    return read(names);
  });
}

std::optional<BlockReader::Tensors> BlockReader::take(std::int64_t layer) {
  if (layer_ != layer || !ahead_.valid()) return std::nullopt;
  layer_ = -1;
  last_ = ahead_.get();
  if (!last_->copied) {
    last_.reset();
    return std::nullopt;
  }
  const c10::Stream current = c10::impl::VirtualGuardImpl(device_.type()).getStream(device_);
  last_->copied->block(current);
  // Made on the reader's stream, used on this one: only when both are done may the allocator give the memory away.
  for (auto& [name, tensor] : last_->on_device) tensor.record_stream(current);
  return std::exchange(last_->on_device, {});
}

}  // namespace miq::model
