#include "miq/core/gguf_writer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "checked.h"
#include "gguf_blocks.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/gguf.h"

namespace miq {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kAlignment = 32;
constexpr std::size_t kMaxNameBytes = 63;  // GGML_MAX_NAME, with its end

const GgmlType& row_of(std::int32_t type) {
  const GgmlType* const row = find_ggml_type(type);
  if (row == nullptr) throw Error(ErrorKind::internal, "no ggml type " + std::to_string(type));
  return *row;
}

// The bytes in front of the tensors' data.
class Header {
 public:
  template <class T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(const std::string& value) {
    number<std::uint64_t>(value.size());
    bytes_ += value;
  }
  void key(const std::string& name, const GgufValue& value) {
    text(name);
    std::visit([this](const auto& content) { put(content); }, value);
  }
  void pad() { bytes_.resize((bytes_.size() + kAlignment - 1) / kAlignment * kAlignment); }
  std::string& bytes() { return bytes_; }

 private:
  enum Type : std::uint32_t { kUint32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kString = 8, kArray = 9 };
  void put(std::uint32_t value) { number(kUint32), number(value); }
  void put(std::int32_t value) { number(kInt32), number(value); }
  void put(float value) { number(kFloat32), number(value); }
  void put(bool value) { number(kBool), number(static_cast<std::uint8_t>(value)); }
  void put(const std::string& value) { number(kString), text(value); }
  void put(const std::vector<std::string>& values) {
    array(kString, values.size());
    for (const std::string& value : values) text(value);
  }
  void put(const std::vector<float>& values) {
    array(kFloat32, values.size());
    for (const float value : values) number(value);
  }
  void put(const std::vector<std::int32_t>& values) {
    array(kInt32, values.size());
    for (const std::int32_t value : values) number(value);
  }
  void array(Type element, std::uint64_t count) { number(kArray), number(element), number(count); }
  std::string bytes_;
};

std::int64_t padded(std::int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

void write_bytes(int descriptor, const char* data, std::int64_t bytes, std::int64_t offset, const fs::path& path) {
  while (bytes > 0) {
    const ssize_t count = ::pwrite(descriptor, data, static_cast<size_t>(std::min<std::int64_t>(bytes, 1 << 28)), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_system_error("write", path, errno);
    data += count;
    offset += count;
    bytes -= count;
  }
}

at::Tensor checked_rows(const at::Tensor& rows, std::int64_t heads) {
  if (heads <= 0 || rows.size(0) % (2 * heads) != 0)
    throw Error(ErrorKind::io, std::to_string(rows.size(0)) + " rows of q or k for " + std::to_string(heads) + " heads");
  return rows;
}

}  // namespace

at::Tensor to_interleaved_rows(const at::Tensor& rows, std::int64_t heads) {
  return checked_rows(rows, heads).unflatten(0, {heads, 2, rows.size(0) / heads / 2}).transpose(1, 2).flatten(0, 2).contiguous();
}

at::Tensor from_interleaved_rows(const at::Tensor& rows, std::int64_t heads) {
  return checked_rows(rows, heads).unflatten(0, {heads, rows.size(0) / heads / 2, 2}).transpose(1, 2).flatten(0, 2).contiguous();
}

std::int64_t ggml_block_values(std::int32_t type) { return row_of(type).block; }
std::int64_t ggml_block_bytes(std::int32_t type) { return row_of(type).bytes; }
bool ggml_can_encode(std::int32_t type) { return type == kGgmlF32 || type == kGgmlF16 || type == kGgmlBf16 || row_of(type).encode != nullptr; }

at::Tensor ggml_encode(const at::Tensor& values, std::int32_t type, const at::Tensor& importance_I) {
  const GgmlType& row = row_of(type);
  if (!ggml_can_encode(type) || values.dim() == 0 || values.size(-1) % row.block != 0)
    throw Error(ErrorKind::internal, "rows of " + std::to_string(values.dim() == 0 ? 1 : values.size(-1)) + " values cannot be " + row.name);
  const at::Tensor floats = values.to(at::kFloat).contiguous();
  if (!floats.isfinite().all().item<bool>()) throw Error(ErrorKind::numeric, "values that are not finite cannot be written as " + std::string(row.name));
  if (ggml_is_plain(type)) {
    at::Tensor plain = floats.to(ggml_value_dtype(type));
    if (type == kGgmlF16 && !plain.isfinite().all().item<bool>())
      throw Error(ErrorKind::numeric, "values are too large for float16", "", "choose bf16");
    return plain;
  }
  std::vector<std::int64_t> shape = values.sizes().vec();
  const std::int64_t row_blocks = shape.back() / row.block;
  shape.back() = row_blocks * row.bytes;
  at::Tensor importance;
  if (importance_I.defined()) {
    importance = importance_I.to(at::kFloat).contiguous();
    if (importance.numel() != values.size(-1)) throw Error(ErrorKind::internal, "importance of another number of columns");
  }
  at::Tensor blocks = at::empty(shape, at::kByte);
  const float* const from = floats.const_data_ptr<float>();
  const float* const weights = importance.defined() ? importance.const_data_ptr<float>() : nullptr;
  std::uint8_t* const to = blocks.mutable_data_ptr<std::uint8_t>();
  at::parallel_for(0, floats.numel() / row.block, 32768 / row.block,
                   [&](std::int64_t begin, std::int64_t end) { row.encode(from, weights, row_blocks, begin, end, to); });
  return blocks;
}

at::Tensor ggml_decode(const at::Tensor& blocks, std::int32_t type) {
  if (ggml_is_plain(type)) return blocks.to(at::kFloat);
  const GgmlType& row = row_of(type);
  if (row.dequantize == nullptr || blocks.dim() == 0 || blocks.size(-1) % row.bytes != 0)
    throw Error(ErrorKind::internal, "not blocks of " + std::string(row.name));
  const at::Tensor data = blocks.contiguous();
  std::vector<std::int64_t> shape = blocks.sizes().vec();
  shape.back() = shape.back() / row.bytes * row.block;
  at::Tensor values = at::empty(shape, at::kFloat);
  const std::uint8_t* const from = data.const_data_ptr<std::uint8_t>();
  float* const to = values.mutable_data_ptr<float>();
  at::parallel_for(0, values.numel() / row.block, 16384 / row.block, [&](std::int64_t begin, std::int64_t end) {
    row.dequantize(from + begin * row.bytes, to + begin * row.block, end - begin);
  });
  return values;
}

GgufWriter::GgufWriter(fs::path path, const GgufMetadata& metadata, const std::vector<GgufTensorSpec>& tensors) : path_(std::move(path)) {
  Header header;
  header.bytes() = "GGUF";
  header.number<std::uint32_t>(3);
  header.number<std::uint64_t>(tensors.size());
  header.number<std::uint64_t>(metadata.size());
  std::map<std::string, int> keys;
  for (const auto& [name, value] : metadata) {
    if (name.empty() || ++keys[name] > 1) throw Error(ErrorKind::internal, "the key '" + name + "' is empty or comes twice", path_.string());
    header.key(name, value);
  }
  std::int64_t at = 0;
  for (const GgufTensorSpec& spec : tensors) {
    const GgmlType& type = row_of(spec.type);
    const auto values = checked_bytes(spec.shape, 8);
    if (spec.name.empty() || spec.name.size() > kMaxNameBytes || spec.shape.empty() || spec.shape.size() > 4 || !values ||
        spec.shape.back() % type.block != 0)
      throw Error(ErrorKind::internal, "a tensor '" + spec.name + "' cannot be announced as " + type.name, path_.string());
    const std::int64_t bytes = *values / 8 / type.block * type.bytes;
    header.text(spec.name);
    header.number(static_cast<std::uint32_t>(spec.shape.size()));
    for (auto extent = spec.shape.rbegin(); extent != spec.shape.rend(); ++extent) header.number<std::uint64_t>(static_cast<std::uint64_t>(*extent));
    header.number(spec.type);
    header.number<std::uint64_t>(static_cast<std::uint64_t>(at));
    if (!slots_.emplace(spec.name, Slot{spec, at, bytes, {}}).second)
      throw Error(ErrorKind::internal, "tensor '" + spec.name + "' announced twice", path_.string());
    at += padded(bytes);
  }
  header.pad();
  const auto start = static_cast<std::int64_t>(header.bytes().size());
  for (auto& [name, slot] : slots_) slot.offset += start;

  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw_system_error("create", path_, errno);
  try {
    // The whole space now, with zeros between the tensors: a full disk is found before the work, not after it.
    const int problem = ::posix_fallocate(descriptor_, 0, start + at);
    if (problem == ENOSPC || problem == EDQUOT || problem == EFBIG) throw_system_error("write", path_, problem);
    if (problem != 0 && ::ftruncate(descriptor_, start + at) != 0) throw_system_error("write", path_, errno);
    write_bytes(descriptor_, header.bytes().data(), start, 0, path_);
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

GgufWriter::~GgufWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

GgufWriter::Slot& GgufWriter::slot(const std::string& name) {
  const auto found = slots_.find(name);
  if (found == slots_.end()) throw Error(ErrorKind::internal, "tensor '" + name + "' was not announced", path_.string());
  return found->second;
}

void GgufWriter::put(Slot& slot, std::int64_t entries, std::int64_t entry, const at::Tensor& data) {
  const GgufTensorSpec& spec = slot.spec;
  if (slot.written.empty()) slot.written.resize(static_cast<size_t>(entries), false);
  const bool plain = ggml_is_plain(spec.type);
  if (slot.written.size() != static_cast<size_t>(entries) || entry < 0 || entry >= entries || slot.written[static_cast<size_t>(entry)] ||
      data.scalar_type() != (plain ? ggml_value_dtype(spec.type) : at::kByte) || static_cast<std::int64_t>(data.nbytes()) != slot.bytes / entries)
    throw Error(ErrorKind::internal, "tensor '" + spec.name + "' is not the one announced, or comes twice", path_.string());
  const at::Tensor dense = data.cpu().contiguous();
  const std::int64_t bytes = slot.bytes / entries;
  write_bytes(descriptor_, static_cast<const char*>(dense.const_data_ptr()), bytes, slot.offset + entry * bytes, path_);
  slot.written[static_cast<size_t>(entry)] = true;
}

void GgufWriter::write(const std::string& name, const at::Tensor& data) { put(slot(name), 1, 0, data); }

void GgufWriter::write_entry(const std::string& name, std::int64_t entry, const at::Tensor& data) {
  Slot& found = slot(name);
  put(found, found.spec.shape.front(), entry, data);
}

void GgufWriter::finish() {
  for (const auto& [name, slot] : slots_)
    if (slot.written.empty() || std::find(slot.written.begin(), slot.written.end(), false) != slot.written.end())
      throw Error(ErrorKind::internal, "tensor '" + name + "' was never written, or not all of it", path_.string());
  if (descriptor_ < 0) return;
  const bool failed = ::fsync(descriptor_) != 0;
  const int problem = errno;
  ::close(std::exchange(descriptor_, -1));
  if (failed) throw_system_error("write", path_, problem);
}

}  // namespace miq
