#include "miq/core/gguf.h"

#include <ATen/Parallel.h>

#include <bit>
#include <cstring>

#include "checked.h"
#include "gguf_blocks.h"
#include "miq/core/checkpoint.h"
#include "miq/core/error.h"
#include "miq/core/mapped_file.h"
#include "miq/core/text.h"

namespace miq {
namespace fs = std::filesystem;
namespace {

enum ValueType : std::uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

constexpr std::int64_t kMaxValues = std::int64_t{1} << 22;  // in all arrays: JSON takes several times the file's bytes
constexpr std::int64_t kMaxText = std::int64_t{1} << 26;    // bytes of one text
constexpr std::int64_t kMaxKeys = std::int64_t{1} << 16;
constexpr std::int64_t kMinTensorBytes = 8 + 4 + 4 + 8, kMinKeyBytes = 8 + 4 + 1;
constexpr std::size_t kMaxAxesOfGgml = 4;

// LibTorch's type of the same layout.
std::optional<at::ScalarType> plain_type(std::int32_t type) {
  switch (type) {
    case 0: return at::kFloat;
    case 1: return at::kHalf;
    case 24: return at::kChar;
    case 25: return at::kShort;
    case 26: return at::kInt;
    case 27: return at::kLong;
    case 28: return at::kDouble;
    case 30: return at::kBFloat16;
    default: return std::nullopt;
  }
}

}  // namespace

// Reads the header of a GGUF file from front to back.
class GgufReader {
 public:
  explicit GgufReader(GgufFile& file) : gguf_(file), file_(*file.mapping_) {}

  void read() {
    if (file_.size() < 24 || file_.view(0, 4) != "GGUF") malformed("it does not start with GGUF");
    at_ = 4;
    const auto version = number<std::uint32_t>();
    if (version != 2 && version != 3)
      throw Error(
          ErrorKind::unsupported,
          version << 16 == 0 ? std::string("a big-endian GGUF file") : "GGUF version " + std::to_string(version),
          file_.path().string(), "convert it anew with a recent llama.cpp");
    const std::int64_t tensors = count(kMinTensorBytes, "tensors"), keys = count(kMinKeyBytes, "keys");
    if (keys > kMaxKeys) malformed(std::to_string(keys) + " keys");
    gguf_.metadata_ = nlohmann::json::object();
    for (std::int64_t i = 0; i < keys; ++i) read_key();
    read_tensors(tensors);
  }

 private:
  [[noreturn]] void malformed(const std::string& what) const {
    throw Error(ErrorKind::io, "malformed GGUF file: " + what, file_.path().string(),
                "the file is damaged or was not fully downloaded; fetch it again");
  }
  [[noreturn]] void malformed(const std::string& name, const std::string& what) const {
    malformed("'" + printable(name.substr(0, 200)) + "': " + what);
  }

  template <class T>
  T number() {
    if (file_.size() - at_ < static_cast<std::int64_t>(sizeof(T))) malformed("it ends early");
    T value;
    std::memcpy(&value, file_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  // A count of things that take at least `least` bytes each.
  std::int64_t count(std::int64_t least, const char* what) {
    const auto value = number<std::uint64_t>();
    if (value > static_cast<std::uint64_t>((file_.size() - at_) / least))
      malformed(std::to_string(value) + " " + what + ", more than fit into the file");
    return static_cast<std::int64_t>(value);
  }
  std::string text() {
    const std::int64_t bytes = count(1, "bytes of text");
    if (bytes > kMaxText) malformed("a text of " + std::to_string(bytes) + " bytes");
    at_ += bytes;
    return std::string(file_.view(at_ - bytes, bytes));
  }

  nlohmann::json value(std::uint32_t type, const std::string& key) {
    if (++values_ > kMaxValues) malformed(key, "more than " + std::to_string(kMaxValues) + " values");
    switch (type) {
      case kU8: return number<std::uint8_t>();
      case kI8: return number<std::int8_t>();
      case kU16: return number<std::uint16_t>();
      case kI16: return number<std::int16_t>();
      case kU32: return number<std::uint32_t>();
      case kI32: return number<std::int32_t>();
      case kF32: return number<float>();
      case kBool: return number<std::uint8_t>() != 0;
      case kString: return text();
      case kU64: return number<std::uint64_t>();
      case kI64: return number<std::int64_t>();
      case kF64: return number<double>();
      default: malformed(key, "a value of type " + std::to_string(type));  // arrays of arrays, too
    }
  }

  void read_key() {
    const std::string key = text();
    if (key.empty()) malformed("a key without a name");
    const auto type = number<std::uint32_t>();
    nlohmann::json content;
    if (type == kArray) {
      const auto element = number<std::uint32_t>();
      const std::int64_t elements = count(element == kString ? 8 : 1, "elements");
      content = nlohmann::json::array();
      for (std::int64_t i = 0; i < elements; ++i) content.push_back(value(element, key));
    } else {
      content = value(type, key);
    }
    if (!gguf_.metadata_.emplace(key, std::move(content)).second) malformed(key, "the key comes twice");
  }

  std::int64_t alignment() const {
    const auto found = gguf_.metadata_.find("general.alignment");
    if (found == gguf_.metadata_.end()) return 32;
    const std::uint64_t value = found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
    if (!std::has_single_bit(value) || value > (1 << 20)) malformed("general.alignment", "it is no power of two");
    return static_cast<std::int64_t>(value);
  }

  GgufTensor read_tensor() {
    GgufTensor tensor;
    tensor.name = text();
    if (tensor.name.empty() || tensor.name.size() > 4096) malformed("a tensor without a name, or with one too long");
    const auto axes = number<std::uint32_t>();
    if (axes > kMaxAxesOfGgml) malformed(tensor.name, std::to_string(axes) + " axes");
    for (std::uint32_t i = 0; i < axes; ++i) {
      const auto extent = number<std::uint64_t>();
      if (extent > INT64_MAX) malformed(tensor.name, "an extent of " + std::to_string(extent));
      tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(extent));  // the fastest comes first
    }
    tensor.type = number<std::int32_t>();
    const GgmlType* const type = find_ggml_type(tensor.type);
    if (type == nullptr)
      throw Error(ErrorKind::unsupported,
                  "tensor '" + printable(tensor.name) + "' is of an unknown " + ggml_type_name(tensor.type),
                  file_.path().string(), "convert it to one of the usual types with llama.cpp");
    const std::int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
    if (row % type->block != 0)
      malformed(tensor.name, "rows of " + std::to_string(row) + " values in blocks of " + std::to_string(type->block));
    const auto values = checked_bytes(tensor.shape, 8);  // dequantized and in any plain type it must fit, too
    if (!values) malformed(tensor.name, "its size does not fit");
    tensor.bytes = *values / 8 / type->block * type->bytes;
    tensor.offset = static_cast<std::int64_t>(number<std::uint64_t>());  // compared below, whatever it is
    return tensor;
  }

  void read_tensors(std::int64_t count) {
    std::vector<GgufTensor> tensors;
    for (std::int64_t i = 0; i < count; ++i) tensors.push_back(read_tensor());
    const std::int64_t alignment = this->alignment();
    const auto padded = [&](std::int64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; };
    const std::int64_t start = padded(at_);
    std::int64_t expected = 0;
    for (GgufTensor& tensor : tensors) {
      if (tensor.offset != expected)
        malformed(tensor.name,
                  "its data starts at " + std::to_string(tensor.offset) + ", not at " + std::to_string(expected));
      tensor.offset += start;
      if (tensor.bytes > file_.size() - tensor.offset)
        malformed(tensor.name, "its " + std::to_string(tensor.bytes) + " bytes reach beyond the file's end");
      expected += padded(tensor.bytes);
      const std::string name = tensor.name;
      if (!gguf_.tensors_.emplace(name, std::move(tensor)).second) malformed(name, "the tensor comes twice");
    }
  }

  GgufFile& gguf_;
  const MappedFile& file_;
  std::int64_t at_ = 0, values_ = 0;
};

std::string ggml_type_name(std::int32_t type) {
  const GgmlType* const row = find_ggml_type(type);
  return row != nullptr ? row->name : "type " + std::to_string(type);
}

bool ggml_is_plain(std::int32_t type) { return plain_type(type).has_value(); }
at::ScalarType ggml_value_dtype(std::int32_t type) { return plain_type(type).value_or(at::kFloat); }

std::optional<fs::path> find_gguf(const fs::path& path) {
  std::error_code problem;
  if (!fs::is_directory(path, problem)) {
    if (path.extension() == ".gguf" && fs::exists(path, problem)) return path;
    return std::nullopt;
  }
  if (has_checkpoint(path)) return std::nullopt;
  std::optional<fs::path> found;
  for (const auto& entry : fs::directory_iterator(path, problem)) {
    if (entry.path().extension() != ".gguf") continue;
    if (found) return std::nullopt;
    found = entry.path();
  }
  return found;
}

GgufFile GgufFile::open(const fs::path& path) { return open(MappedFile::open(path)); }

GgufFile GgufFile::open(std::shared_ptr<const MappedFile> mapping) {
  GgufFile file;
  file.path_ = mapping->path();
  file.mapping_ = std::move(mapping);
  GgufReader(file).read();
  return file;
}

const GgufTensor& GgufFile::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw Error(ErrorKind::io, "no tensor '" + name + "'", path_.string());
  return found->second;
}

at::Tensor GgufFile::tensor(const std::string& name) const {
  const GgufTensor& tensor = find(name);
  return read(tensor, tensor.shape, tensor.offset);
}

at::Tensor GgufFile::rows(const std::string& name, std::int64_t begin, std::int64_t count) const {
  const GgufTensor& tensor = find(name);
  std::vector<std::int64_t> shape = tensor.shape;
  if (shape.size() < 2 || begin < 0 || count < 0 || begin > shape[0] || count > shape[0] - begin)
    throw Error(ErrorKind::internal,
                "rows " + std::to_string(begin) + " + " + std::to_string(count) + " of tensor '" + name + "'",
                path_.string());
  const std::int64_t entry_bytes = shape[0] == 0 ? 0 : tensor.bytes / shape[0];
  shape[0] = count;
  return read(tensor, shape, tensor.offset + begin * entry_bytes);
}

at::Tensor GgufFile::blocks(const std::string& name, std::int64_t index, std::int64_t rows) const {
  const GgufTensor& tensor = find(name);
  const GgmlType& type = *find_ggml_type(tensor.type);
  const std::int64_t columns = tensor.shape.empty() ? 1 : tensor.shape.back(), row_bytes = columns / type.block * type.bytes;
  if (ggml_is_plain(tensor.type) || index < 0 || rows < 1 || row_bytes == 0 ||
      index >= tensor.bytes / row_bytes / rows)
    throw Error(ErrorKind::internal, "blocks of tensor '" + name + "' that it has not", path_.string());
  return mapped_tensor(mapping_, tensor.offset + index * rows * row_bytes, {rows, row_bytes}, at::kByte);
}

at::Tensor GgufFile::read(const GgufTensor& tensor, const std::vector<std::int64_t>& shape, std::int64_t offset) const {
  if (const auto plain = plain_type(tensor.type)) return mapped_tensor(mapping_, offset, shape, *plain);
  const GgmlType& type = *find_ggml_type(tensor.type);
  if (type.dequantize == nullptr)
    throw Error(ErrorKind::unsupported,
                "tensor '" + printable(tensor.name) + "' is of type " + type.name + ", which cannot be read",
                path_.string(), "convert the model to another type with llama.cpp, for example Q8_0");
  at::Tensor values = at::empty(shape, at::kFloat);
  const auto* const data = reinterpret_cast<const std::uint8_t*>(mapping_->data() + offset);
  float* const out = values.mutable_data_ptr<float>();
  at::parallel_for(0, values.numel() / type.block, 16384 / type.block, [&](std::int64_t begin, std::int64_t end) {
    type.dequantize(data + begin * type.bytes, out + begin * type.block, end - begin);
  });
  return values;
}

void GgufFile::advise(const std::string& name, bool needed) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) mapping_->advise(found->second.offset, found->second.bytes, needed);
}

}  // namespace miq
