#include "miq/core/torch_file.h"

#include <cstring>
#include <utility>

#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/mapped_file.h"
#include "miq/core/text.h"
#include "torch_storage.h"

namespace miq {
namespace fs = std::filesystem;

using Kind = PickleValue::Kind;

// Finds the tensors of a pickled state dict and checks where each lies.
class TorchFileReader {
 public:
  explicit TorchFileReader(TorchFile& file)
      : file_(file), archive_(open_torch_archive(*file.mapping_)), pickle_(archive_.pickle) {}

  void read() {
    const PickleValue& root = state_dict();
    visit(root, "", 0);
    if (file_.specs_.empty()) fail("no tensors in it");
  }

 private:
  static constexpr int kMaxDepth = 32;
  static constexpr size_t kMaxVisits = std::size_t{1} << 20, kMaxNameBytes = std::size_t{1} << 26;
  static constexpr std::int64_t kAlwaysAllowed = std::int64_t{64} << 20;

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::io, "malformed file of torch.save: " + what, file_.path_.string(),
                "the file is damaged, was not fully downloaded, or is no checkpoint");
  }
  [[noreturn]] void fail(const std::string& name, const std::string& what) const {
    fail("tensor '" + printable(name) + "': " + what);
  }

  static std::string_view function_of(const Pickle& pickle, const PickleValue& call) {
    return call.kind == Kind::call ? pickle.item(call, 0).text : std::string_view();
  }
  bool is_tensor(const PickleValue& value) const {
    return function_of(pickle_, value).starts_with("torch._utils._rebuild_");
  }

  // The dict that holds the weights: the outermost one, or the one inside that training programs save.
  const PickleValue& state_dict() const {
    const PickleValue* dict = &pickle_.at(pickle_.root);
    if (dict->kind != Kind::dict) fail("its object is no dict");
    for (int depth = 0; depth < kMaxDepth; ++depth) {
      const PickleValue* inner = nullptr;
      for (size_t i = 0; i + 1 < dict->items.size(); i += 2) {
        const PickleValue &key = pickle_.item(*dict, i), &value = pickle_.item(*dict, i + 1);
        if (is_tensor(value)) return *dict;
        const bool holds_weights =
            key.kind == Kind::text && (key.text == "state_dict" || key.text == "model" || key.text == "module");
        if (inner == nullptr && holds_weights && value.kind == Kind::dict) inner = &value;
      }
      if (inner == nullptr) return *dict;
      dict = inner;
    }
    fail("dicts nested deeper than " + std::to_string(kMaxDepth));
  }

  // Values may be shared and even contain themselves: depth and number of steps are bounded.
  void visit(const PickleValue& value, const std::string& name, int depth) {
    if (++visits_ > kMaxVisits) fail("more than " + std::to_string(kMaxVisits) + " entries");
    if (depth > kMaxDepth)
      fail("'" + printable(name.substr(0, 80)) + "' is nested deeper than " + std::to_string(kMaxDepth));
    const std::string prefix = name.empty() ? "" : name + ".";
    if (value.kind == Kind::dict) {
      for (size_t i = 0; i + 1 < value.items.size(); i += 2) {
        const PickleValue& key = pickle_.item(value, i);
        if (key.kind == Kind::text) visit_named(pickle_.item(value, i + 1), prefix, key.text, depth);
      }
    } else if (value.kind == Kind::list || value.kind == Kind::tuple) {
      for (size_t i = 0; i < value.items.size(); ++i)
        visit_named(pickle_.item(value, i), prefix, std::to_string(i), depth);
    } else if (is_tensor(value)) {
      add(value, name);
    }
  }
  void visit_named(const PickleValue& value, const std::string& prefix, std::string_view last, int depth) {
    name_bytes_ += prefix.size() + last.size();
    if (name_bytes_ > kMaxNameBytes) fail("names of more than " + std::to_string(kMaxNameBytes) + " bytes");
    visit(value, prefix + std::string(last), depth + 1);
  }

  // A tuple of integers that are not negative, maybe as torch.Size.
  std::vector<std::int64_t> extents(const PickleValue& value, const std::string& name) const {
    const PickleValue* tuple = &value;
    if (function_of(pickle_, value) == "torch.Size" && pickle_.item(value, 1).items.size() == 1)
      tuple = &pickle_.item(pickle_.item(value, 1), 0);
    if (tuple->kind != Kind::tuple || tuple->items.size() > kMaxAxes)
      fail(name, "its shape or strides are no tuple of sizes");
    std::vector<std::int64_t> numbers;
    for (size_t i = 0; i < tuple->items.size(); ++i) numbers.push_back(non_negative(pickle_.item(*tuple, i), name));
    return numbers;
  }
  std::int64_t non_negative(const PickleValue& value, const std::string& name) const {
    if (value.kind != Kind::integer || value.integer < 0)
      fail(name, "an offset, size or stride is no number from 0 on");
    return value.integer;
  }

  void add(const PickleValue& value, const std::string& name) {
    const PickleValue* call = &value;  // _rebuild_parameter(tensor, requires_grad, hooks)
    while (function_of(pickle_, *call) == "torch._utils._rebuild_parameter") {
      if (pickle_.item(*call, 1).items.empty()) fail(name, "a Parameter without data");
      call = &pickle_.item(pickle_.item(*call, 1), 0);
    }
    const std::string_view function = function_of(pickle_, *call);
    if (function == "torch._utils._rebuild_sparse_tensor") {
      log_warning(file_.path_.string() + ": the sparse tensor '" + printable(name) + "' is left out");
      return;
    }
    const bool typed = function == "torch._utils._rebuild_tensor_v3";
    if (!typed && function != "torch._utils._rebuild_tensor_v2") fail(name, "no tensor");
    const PickleValue& arguments = pickle_.item(*call, 1);
    if (arguments.items.size() < (typed ? 7u : 6u)) fail(name, "arguments are missing");
    const StorageReference storage = storage_reference(pickle_, pickle_.item(arguments, 0), file_.path_);
    TensorSpec spec{name, storage.dtype, extents(pickle_.item(arguments, 2), name)};
    if (typed) {
      const PickleValue& dtype = pickle_.item(arguments, 6);
      const auto known = dtype.kind == Kind::global ? torch_dtype(dtype.text) : std::nullopt;
      if (!known) fail(name, "its type is none");
      spec.dtype = *known;
    }
    add(std::move(spec), archive_.locate(storage, file_.path_), non_negative(pickle_.item(arguments, 1), name),
        extents(pickle_.item(arguments, 3), name));
  }

  void add(TensorSpec spec, const ZipEntry& storage, std::int64_t offset, std::vector<std::int64_t> strides) {
    const std::string name = spec.name;
    const auto element = static_cast<std::int64_t>(c10::elementSize(spec.dtype));
    const auto bytes = checked_bytes(spec.shape, element);
    if (strides.size() != spec.shape.size()) fail(name, "its shape and strides differ in length");
    if (!bytes) fail(name, "its size does not fit");
    if (*bytes > std::max(file_.mapping_->size(), kAlwaysAllowed))
      fail(name, "expanded to " + std::to_string(*bytes) + " bytes, more than the file has");
    TorchFile::Place place;
    if (*bytes > 0) {
      std::optional<std::int64_t> last = offset;  // of its elements in the storage
      std::int64_t dense = 1;
      bool contiguous = true;
      for (size_t i = spec.shape.size(); i-- > 0;) {
        const auto reach = checked_product(spec.shape[i] - 1, strides[i]);
        last = last && reach ? checked_sum(*last, *reach) : std::nullopt;
        contiguous = contiguous && (spec.shape[i] == 1 || strides[i] == dense);
        dense *= spec.shape[i];
      }
      if (!last || *last >= storage.bytes / element)
        fail(name, "it reaches beyond its storage of " + std::to_string(storage.bytes) + " bytes");
      place.offset = storage.offset + offset * element;
      place.bytes = (*last - offset + 1) * element;
      if (!contiguous) place.strides = std::move(strides);
    }
    if (!file_.specs_.emplace(name, std::move(spec)).second) fail(name, "it comes twice");
    file_.places_.emplace(name, std::move(place));
  }

  TorchFile& file_;
  const TorchArchive archive_;
  const Pickle& pickle_;
  size_t visits_ = 0, name_bytes_ = 0;
};

TorchFile TorchFile::open(const fs::path& path) { return open(MappedFile::open(path)); }

TorchFile TorchFile::open(std::shared_ptr<const MappedFile> mapping) {
  TorchFile file;
  file.path_ = mapping->path();
  file.mapping_ = std::move(mapping);
  TorchFileReader(file).read();
  return file;
}

at::Tensor TorchFile::tensor(const std::string& name) const {
  const auto found = specs_.find(name);
  if (found == specs_.end()) throw Error(ErrorKind::io, "no tensor '" + name + "'", path_.string());
  const TensorSpec& spec = found->second;
  const Place& place = places_.at(name);
  if (place.strides.empty()) return mapped_tensor(mapping_, place.offset, spec.shape, spec.dtype);
  const std::int64_t elements = place.bytes / static_cast<std::int64_t>(c10::elementSize(spec.dtype));
  return mapped_tensor(mapping_, place.offset, {elements}, spec.dtype)
      .as_strided(spec.shape, place.strides)
      .contiguous();
}

void TorchFile::advise(const std::string& name, bool needed) const {
  const auto found = places_.find(name);
  if (found != places_.end()) mapping_->advise(found->second.offset, found->second.bytes, needed);
}

}  // namespace miq
