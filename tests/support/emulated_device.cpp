#include "support/emulated_device.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <unordered_map>

#include "support/emulated_memory.h"

namespace miq::test::emulated {
namespace {

bool is_ours(const at::Tensor& t) { return t.defined() && t.device().type() == c10::DeviceType::PrivateUse1; }

c10::Storage host_storage(const c10::Storage& storage) {
  return {c10::Storage::use_byte_size_t(), storage.nbytes(), c10::DataPtr(host_address(storage.data_ptr().get()), at::kCPU), nullptr, false};
}

// A tensor of the same shape over another storage.
at::Tensor over(const c10::Storage& storage, c10::DispatchKeySet keys, const at::Tensor& like) {
  at::Tensor t = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), keys, like.dtype());
  t.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return t;
}

at::Tensor on_host(const at::Tensor& t) { return over(host_storage(t.storage()), c10::DispatchKeySet(c10::DispatchKey::CPU), t); }

// One call of an operator: its tensors seen by the host, its results seen by the device again.
class Call {
 public:
  explicit Call(const c10::OperatorHandle& op) : schema_(op.schema()) {}

  // As CUDA has it: one device for all, but numbers (tensors without dimensions) and indices, which may come from the CPU.
  void check(const at::Tensor& t, const c10::Argument& argument) {
    if (!t.defined()) return;
    if (is_ours(t)) {
      TORCH_CHECK(device_ < 0 || device_ == t.get_device(), schema_.name(), ": tensors lie on emulated:", device_, " and on ", t.device());
      device_ = t.get_device();
      return;
    }
    const bool written = argument.alias_info() != nullptr && argument.alias_info()->isWrite(), index = argument.name() == "indices" && schema_.name().find("index") != std::string::npos;
    if (t.dim() > 0 || written)
      if (!index) strange_ = argument.name() + " (" + t.toString() + ")";
  }
  void check_generator(const at::Generator& generator) const { TORCH_CHECK(generator.device().type() == c10::DeviceType::PrivateUse1, schema_.name(), ": a generator of ", generator.device(), " for a tensor of the emulated device"); }
  void decide() const { TORCH_CHECK(device_ < 0 || strange_.empty(), schema_.name(), ": ", strange_, " lies on the CPU, other tensors on emulated:", device_); }
  int device() const { return device_ < 0 ? current_device() : device_; }

  at::Tensor to_host(const at::Tensor& t, const c10::Argument& argument) {
    if (!is_ours(t)) return t;
    const bool written = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
    at::Tensor host;
    if (written && t.numel() == 0) {  // an output that the operator gives its size
      host = at::empty({0}, t.options().device(at::kCPU));
    } else {
      const auto [entry, is_new] = storages_.try_emplace(t.storage().unsafeGetStorageImpl());
      if (is_new) entry->second = host_storage(t.storage());
      host = over(entry->second, c10::DispatchKeySet(c10::DispatchKey::CPU), t);
      if (t.unsafeGetTensorImpl()->is_wrapped_number()) host.unsafeGetTensorImpl()->set_wrapped_number(true);
      owners_[entry->second.unsafeGetStorageImpl()] = t;
    }
    originals_[host.unsafeGetTensorImpl()] = {t, host};
    return host;
  }

  at::Tensor to_device(const at::Tensor& t) {
    if (!t.defined() || is_ours(t)) return t;
    if (const auto found = originals_.find(t.unsafeGetTensorImpl()); found != originals_.end()) return follow(found->second.first, t);
    if (t.has_storage())
      if (const auto owner = owners_.find(t.storage().unsafeGetStorageImpl()); owner != owners_.end()) return over(owner->second.storage(), owner->second.key_set(), t);
    const c10::DeviceGuard guard(emulated::device(device()));
    at::Tensor made = at::empty_like(t, t.options().device(emulated::device(device())));
    if (t.numel() > 0) on_host(made).copy_(t);
    return made;
  }

 private:
  // An output is as large as the operator made it.
  static at::Tensor follow(const at::Tensor& original, const at::Tensor& host) {
    if (host.sizes() == original.sizes() && host.strides() == original.strides()) return original;
    if (original.numel() == 0 && host.numel() == 0) {
      original.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides());
    } else if (original.numel() == 0) {
      original.resize_(host.sizes());
      on_host(original).copy_(host);
    } else {
      original.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
    }
    return original;
  }

  const c10::FunctionSchema& schema_;
  int device_ = -1;
  std::string strange_;
  std::unordered_map<c10::StorageImpl*, c10::Storage> storages_;                           // ours -> the host's
  std::unordered_map<c10::StorageImpl*, at::Tensor> owners_;                               // the host's -> a tensor of ours
  std::unordered_map<c10::TensorImpl*, std::pair<at::Tensor, at::Tensor>> originals_;      // the host's -> ours, and itself
};

// Any operator: run by the CPU's kernel on the device's memory.
void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Call call(op);
  const auto& arguments = op.schema().arguments();
  const size_t begin = stack->size() - arguments.size();
  const auto each = [&](const auto& see) {
    for (size_t i = 0; i < arguments.size(); ++i) see((*stack)[begin + i], arguments[i]);
  };
  each([&](const c10::IValue& value, const c10::Argument& argument) {
    if (value.isTensor()) call.check(value.toTensor(), argument);
    if (value.isGenerator()) call.check_generator(value.toGenerator());
    if (value.isTensorList())
      for (const at::Tensor& t : value.toTensorVector()) call.check(t, argument);
    if (value.isOptionalTensorList())
      for (const std::optional<at::Tensor>& t : value.toOptionalTensorVector())
        if (t) call.check(*t, argument);
  });
  call.decide();
  finish_stream(current_stream(call.device()));
  each([&](c10::IValue& value, const c10::Argument& argument) {
    if (value.isTensor()) {
      value = call.to_host(value.toTensor(), argument);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& t : value.toTensorVector()) list.push_back(call.to_host(t, argument));
      value = std::move(list);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& t : value.toOptionalTensorVector()) list.push_back(t ? std::optional<at::Tensor>(call.to_host(*t, argument)) : t);
      value = std::move(list);
    } else if (value.isGenerator()) {
      value = c10::IValue();
    } else if (value.isDevice()) {
      value = c10::Device(at::kCPU);
    }
  });
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  const size_t results = stack->size() - op.schema().returns().size();
  for (size_t i = results; i < stack->size(); ++i) {
    c10::IValue& value = (*stack)[i];
    if (value.isTensor()) {
      value = call.to_device(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& t : value.toTensorVector()) list.push_back(call.to_device(t));
      value = std::move(list);
    }
  }
}

const c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

at::Device full(std::optional<at::Device> device) { return device && device->has_index() ? *device : emulated::device(current_device()); }

at::Tensor empty(c10::IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(full(device));
  return at::detail::empty_generic(sizes, &device_allocator(), kKeys, dtype.value_or(at::kFloat), format);
}

at::Tensor empty_strided(c10::IntArrayRef sizes, c10::IntArrayRef strides, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(full(device));
  return at::detail::empty_strided_generic(sizes, strides, &device_allocator(), kKeys, dtype.value_or(at::kFloat));
}

const at::Tensor& resize(const at::Tensor& self, c10::IntArrayRef sizes, std::optional<at::MemoryFormat>) {
  const size_t bytes = static_cast<size_t>(self.storage_offset() + c10::multiply_integers(sizes)) * self.element_size();
  c10::StorageImpl* const storage = self.storage().unsafeGetStorageImpl();
  if (bytes > storage->nbytes()) {
    const c10::DeviceGuard guard(self.device());
    c10::DataPtr grown = device_allocator().allocate(bytes);
    if (storage->nbytes() > 0) device_allocator().copy_data(grown.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(grown));
    storage->set_nbytes(bytes);
  }
  self.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return self;
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& dst, bool non_blocking) {
  const at::Tensor& ours = is_ours(dst) ? dst : self;
  const c10::Stream stream = current_stream(ours.get_device());
  const at::Tensor& other = is_ours(dst) ? self : dst;
  const auto copy = [self, dst] { (is_ours(dst) ? on_host(dst) : dst).copy_(is_ours(self) ? on_host(self) : self); };
  if (non_blocking && !is_ours(other) && other.numel() > 0 && is_pinned(other.const_data_ptr())) {
    queue(stream, copy);
    return dst;
  }
  finish_stream(stream);
  if (is_ours(other)) finish_stream(current_stream(other.get_device()));
  copy();
  return dst;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& dst) {
  dst.resize_(self.sizes());
  return copy_from(self, dst, false);
}

at::Scalar number_of(const at::Tensor& self) {
  finish_stream(current_stream(self.get_device()));
  return at::_local_scalar_dense(on_host(self));
}

void record_stream(at::Tensor&, c10::Stream) { count_recorded_stream(); }

// Products that only GPUs have: of halves, with float32 sums and results.
at::Tensor& addmm_dtype_out(const at::Tensor& self, const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype, const at::Scalar& beta, const at::Scalar& alpha, at::Tensor& out) {
  TORCH_CHECK(a.scalar_type() == b.scalar_type() && (a.scalar_type() == at::kHalf || a.scalar_type() == at::kBFloat16) && dtype == at::kFloat && out.scalar_type() == dtype && self.scalar_type() == dtype,
              "addmm with a type of its result takes halves, and gives float32");
  return at::addmm_out(out, self, a.to(dtype), b.to(dtype), beta, alpha);
}
at::Tensor& mm_dtype_out(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype, at::Tensor& out) {
  TORCH_CHECK(a.scalar_type() == b.scalar_type() && (a.scalar_type() == at::kHalf || a.scalar_type() == at::kBFloat16) && dtype == at::kFloat && out.scalar_type() == dtype, "mm with a type of its result takes halves, and gives float32");
  return at::mm_out(out, a.to(dtype), b.to(dtype));
}
at::Tensor mm_dtype(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype) {
  at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options().dtype(dtype));
  return mm_dtype_out(a, b, dtype, out);
}

// cuBLAS takes no other shapes.
at::Tensor int_mm(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(a.get_device() == b.get_device() && a.size(0) > 16 && a.size(1) % 8 == 0 && b.size(1) % 8 == 0, "_int_mm: ", a.sizes(), " times ", b.sizes(), " is not for GPUs");
  at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options().dtype(at::kInt));
  finish_stream(current_stream(a.get_device()));
  on_host(out).copy_(at::_int_mm(on_host(a), on_host(b)));
  return out;
}

// Of the device by name: its numbers are the CPU's.
struct Generator final : at::CPUGeneratorImpl {
  explicit Generator(int index) {
    device_ = emulated::device(index);
    key_set_ = kKeys;
  }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  void setCurrentDevice(c10::DeviceIndex index) const override { device_guard().setDevice(emulated::device(index)); }
  c10::DeviceIndex getCurrentDevice() const override { return static_cast<c10::DeviceIndex>(current_device()); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override { return device_guard().exchangeDevice(emulated::device(index)).index(); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override { return exchangeDevice(index); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    static const std::vector<at::Generator> all = [] {
      std::vector<at::Generator> list;
      for (int i = 0; i < kDevices; ++i) list.push_back(at::make_generator<Generator>(i));
      return list;
    }();
    return all[static_cast<size_t>(index < 0 ? current_device() : index)];
  }
  bool isPinnedPtr(const void* pointer) const override { return is_pinned(pointer); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator(); }
  at::Device getDeviceFromPtr(void* pointer) const override { return emulated::device(device_of(pointer)); }
};

}  // namespace

void install() {
  static const bool done = [] {
    c10::register_privateuse1_backend("emulated");
    c10::SetAllocator(c10::DeviceType::PrivateUse1, &device_allocator());
    c10::impl::registerDeviceGuard(c10::DeviceType::PrivateUse1, &device_guard());
    at::RegisterPrivateUse1HooksInterface(new Hooks);
    static torch::Library rest(torch::Library::IMPL, "_", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
    rest.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
    static torch::Library own(torch::Library::IMPL, "aten", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
    own.impl("empty.memory_format", &empty);
    own.impl("empty_strided", &empty_strided);
    own.impl("resize_", &resize);
    own.impl("_copy_from", &copy_from);
    own.impl("_copy_from_and_resize", &copy_from_and_resize);
    own.impl("_local_scalar_dense", &number_of);
    own.impl("record_stream", &record_stream);
    own.impl("addmm.dtype_out", &addmm_dtype_out);
    own.impl("mm.dtype_out", &mm_dtype_out);
    own.impl("mm.dtype", &mm_dtype);
    own.impl("_int_mm", &int_mm);
    install_kernels();
    return true;
  }();
  (void)done;
}

}  // namespace miq::test::emulated
