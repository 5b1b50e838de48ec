#include "resting_place.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <unistd.h>

#include "miq/core/device_memory.h"
#include "miq/core/error.h"
#include "miq/core/file.h"

namespace miq::executor {

RestingPlace::RestingPlace(Offload offload, const at::Device& device, std::filesystem::path folder)
    : offload_(offload), device_(device), folder_(std::move(folder)) {
  if (folder_.empty()) folder_ = std::filesystem::temp_directory_path();
}

// Mapped and shared: the kernel writes it out and reads it back as it needs memory.
at::Tensor RestingPlace::in_file(const at::Tensor& t) const {
  const auto bytes = t.numel() * static_cast<std::int64_t>(t.element_size());
  if (bytes == 0) return t.cpu();
  std::string path = (folder_ / ".miq-hidden-XXXXXX").string();
  const int descriptor = ::mkstemp(path.data());
  if (descriptor < 0) throw_system_error("create", path, errno);
  // Reserved now: a full disk under a mapping would be a bus error.
  const int problem = ::posix_fallocate(descriptor, 0, bytes);
  ::close(descriptor);
  if (problem != 0) {
    ::unlink(path.c_str());
    throw_system_error("write", path, problem);
  }
  at::Tensor mapped = at::from_file(path, /*shared=*/true, t.numel(), t.options().device(at::kCPU)).view(t.sizes());
  ::unlink(path.c_str());
  return mapped.copy_(t);
}

// A GPU copies on, to where nothing but the GPU reads again, in the order of its stream.
at::Tensor RestingPlace::in_host_memory(const at::Tensor& t) const {
  if (t.is_cpu()) return t;
  const at::Tensor host = host_tensor(t.sizes(), t.scalar_type());
  return host.copy_(t, /*non_blocking=*/host.is_pinned());
}

at::Tensor RestingPlace::rest(const at::Tensor& t) const {
  switch (offload_) {
    case Offload::automatic:
    case Offload::none: return t;
    case Offload::cpu: return in_host_memory(t);
    case Offload::disk: return in_file(t);
  }
  return t;
}

void RestingPlace::rest(model::BlockState& state) const {
  if (offload_ == Offload::none || offload_ == Offload::automatic) return;
  // On a CPU the hidden states are changed in place: they lie in their file already.
  if (offload_ != Offload::disk || !device_.is_cpu()) state.hidden_BTH = rest(state.hidden_BTH);
  for (at::Tensor& x : state.x) x = rest(x);
}

void RestingPlace::wake(model::BlockState& state) const {
  const auto awake = [&](const at::Tensor& t) { return t.to(device_, t.scalar_type(), /*non_blocking=*/true); };
  state.hidden_BTH = awake(state.hidden_BTH);
  for (at::Tensor& x : state.x) x = awake(x);
}

}  // namespace miq::executor
