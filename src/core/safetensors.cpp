#include "miq/core/safetensors.h"

#include <fcntl.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "checked.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/mapped_file.h"
#include "miq/core/text.h"

namespace miq {
namespace fs = std::filesystem;
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");
constexpr std::int64_t kMaxHeaderBytes = 100'000'000;

[[noreturn]] void malformed(const fs::path& path, const std::string& what) {
  throw Error(ErrorKind::io, "malformed safetensors file: " + what, path.string(),
              "the file is damaged or was not fully downloaded; fetch it again");
}

std::int64_t non_negative_integer(const nlohmann::json& value) {
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX)) return -1;
  return value.get<std::int64_t>();
}

struct Entry {
  TensorSpec spec;
  std::int64_t begin, end;
};

Entry read_entry(const std::string& name, const nlohmann::json& value, std::int64_t data_bytes, const fs::path& path) {
  const auto fail = [&](const std::string& what) { malformed(path, "tensor '" + name + "': " + what); };
  if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") || !value.contains("data_offsets"))
    fail("dtype, shape or data_offsets missing");
  const auto& shape = value["shape"];
  const auto& offsets = value["data_offsets"];
  if (!value["dtype"].is_string() || !shape.is_array() || !offsets.is_array() || offsets.size() != 2)
    fail("dtype, shape or data_offsets of the wrong type");
  Entry entry;
  entry.spec.name = name;
  const auto dtype = dtype_from_safetensors(value["dtype"].get<std::string>());
  if (!dtype) fail("unknown dtype '" + value["dtype"].get<std::string>() + "'");
  entry.spec.dtype = *dtype;
  if (shape.size() > kMaxAxes) fail("a shape of " + std::to_string(shape.size()) + " axes");
  for (const auto& size : shape) {
    const std::int64_t extent = non_negative_integer(size);
    if (extent < 0) fail("shape is not a list of sizes");
    entry.spec.shape.push_back(extent);
  }
  const auto bytes = checked_bytes(entry.spec.shape, static_cast<std::int64_t>(c10::elementSize(*dtype)));
  entry.begin = non_negative_integer(offsets[0]);
  entry.end = non_negative_integer(offsets[1]);
  if (entry.begin < 0 || entry.end < entry.begin || entry.end > data_bytes)
    fail("data_offsets [" + offsets[0].dump() + ", " + offsets[1].dump() + "] lie outside the file's " +
         std::to_string(data_bytes) + " data bytes");
  if (bytes != entry.end - entry.begin)
    fail("data_offsets span " + std::to_string(entry.end - entry.begin) + " bytes, dtype and shape need " +
         (bytes ? std::to_string(*bytes) : "more than fits"));
  return entry;
}

void check_layout(std::vector<Entry> entries, std::int64_t data_bytes, const fs::path& path) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::int64_t at = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != at)
      malformed(path, "tensor '" + entry.spec.name + "' starts at byte " + std::to_string(entry.begin) + ", not " +
                          std::to_string(at) + (entry.begin < at ? " (overlap)" : " (gap)"));
    at = entry.end;
  }
  if (at != data_bytes)
    malformed(path, std::to_string(data_bytes - at) + " bytes behind the last tensor");
}

}  // namespace

std::int64_t TensorSpec::numel() const {
  std::int64_t count = 1;
  for (std::int64_t extent : shape) count *= extent;
  return count;
}
std::int64_t TensorSpec::bytes() const { return numel() * static_cast<std::int64_t>(c10::elementSize(dtype)); }

SafetensorsFile SafetensorsFile::open(const fs::path& path) { return open(MappedFile::open(path)); }

SafetensorsFile SafetensorsFile::open(std::shared_ptr<const MappedFile> mapping) {
  const fs::path path = mapping->path();
  SafetensorsFile file;
  file.path_ = path;
  file.mapping_ = std::move(mapping);
  const std::int64_t size = file.mapping_->size();
  if (size < 10) malformed(path, "only " + std::to_string(size) + " bytes long");
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.mapping_->data(), 8);
  if (header_bytes > static_cast<std::uint64_t>(std::min(kMaxHeaderBytes, size - 8)))
    malformed(path, "header of " + std::to_string(header_bytes) + " bytes in a file of " + std::to_string(size));
  const auto data_start = static_cast<std::int64_t>(header_bytes) + 8;
  const nlohmann::json header =
      parse_json(std::string(file.mapping_->view(8, data_start - 8)), path.string() + " (header)");
  if (!header.is_object()) malformed(path, "the header is not a JSON object");
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") {
      entries.push_back(read_entry(name, value, size - data_start, path));
      continue;
    }
    if (!value.is_object()) malformed(path, "__metadata__ is not an object");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) malformed(path, "__metadata__ '" + key + "' is not text");
      file.metadata_[key] = text.get<std::string>();
    }
  }
  check_layout(entries, size - data_start, path);
  for (Entry& entry : entries) {
    file.offsets_[entry.spec.name] = data_start + entry.begin;
    file.specs_[entry.spec.name] = std::move(entry.spec);
  }
  return file;
}

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const auto found = specs_.find(name);
  if (found == specs_.end()) throw Error(ErrorKind::io, "no tensor '" + name + "'", path_.string());
  return mapped_tensor(mapping_, offsets_.at(name), found->second.shape, found->second.dtype);
}

void SafetensorsFile::advise(const std::string& name, bool needed) const {
  const auto found = specs_.find(name);
  if (found != specs_.end()) mapping_->advise(offsets_.at(name), found->second.bytes(), needed);
}

namespace {

// What a tensor takes of the header at most, beside its name: dtype, shape and offsets with all their digits.
std::int64_t header_bytes(const std::string& name) { return 2 * static_cast<std::int64_t>(name.size()) + 200; }
constexpr std::int64_t kHeaderStart = 64, kUsualEntry = 360;  // a name of 80 letters

void write_all(int descriptor, const fs::path& path, const char* data, std::int64_t left, std::int64_t offset) {
  while (left > 0) {
    const ssize_t count = ::pwrite(descriptor, data, static_cast<size_t>(std::min<std::int64_t>(left, 1 << 28)), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_system_error("write", path, errno);
    data += count;
    offset += count;
    left -= count;
  }
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(fs::path path, std::int64_t tensors, std::int64_t bytes) : path_(std::move(path)) {
  // A multiple of 8 with the 8 bytes of its length.
  header_room_ = (kHeaderStart + tensors * kUsualEntry) / 8 * 8;
  header_used_ = kHeaderStart;
  end_ = 8 + header_room_;
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw_system_error("create", path_, errno);
  const int problem = ::posix_fallocate(descriptor_, 0, end_ + bytes);
  if (problem == ENOSPC || problem == EDQUOT || problem == EFBIG) {
    ::close(descriptor_);
    throw_system_error("write", path_, problem);
  }
}

SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      header_room_(other.header_room_),
      header_used_(other.header_used_),
      bytes_(other.bytes_),
      end_(other.end_),
      written_(std::move(other.written_)),
      waiting_(std::move(other.waiting_)),
      names_(std::move(other.names_)) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

bool SafetensorsWriter::has_room_for(const std::string& name) const { return header_used_ + header_bytes(name) <= header_room_; }

void SafetensorsWriter::write(const std::string& name, const at::Tensor& tensor) {
  if (!names_.insert(name).second) throw Error(ErrorKind::internal, "tensor '" + name + "' comes twice", path_.string());
  if (!has_room_for(name)) throw Error(ErrorKind::internal, "more tensors than were announced", path_.string());
  header_used_ += header_bytes(name);
  bytes_ += static_cast<std::int64_t>(tensor.nbytes());
  if (tensor.nbytes() % 8 == 0)
    append(name, tensor);
  else
    waiting_.emplace(name, tensor.cpu().clone());
}

void SafetensorsWriter::append(const std::string& name, const at::Tensor& tensor) {
  const at::Tensor data = tensor.cpu().contiguous();
  const auto size = static_cast<std::int64_t>(data.nbytes());
  write_all(descriptor_, path_, static_cast<const char*>(data.const_data_ptr()), size, end_);
  written_.emplace_back(TensorSpec{name, tensor.scalar_type(), tensor.sizes().vec()}, end_ - 8 - header_room_);
  end_ += size;
}

void SafetensorsWriter::finish() {
  if (descriptor_ < 0) return;
  // The largest elements first: every size is a multiple of its element's.
  for (const std::int64_t element : {8, 4, 2, 1})
    for (const auto& [name, tensor] : waiting_)
      if (tensor.element_size() == element) append(name, tensor);
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  for (const auto& [spec, offset] : written_)
    header[spec.name] = {{"dtype", safetensors_name(spec.dtype)}, {"shape", spec.shape}, {"data_offsets", {offset, offset + spec.bytes()}}};
  std::string text = header.dump();
  text.append(static_cast<size_t>(header_room_) - text.size(), ' ');
  const auto length = static_cast<std::uint64_t>(header_room_);
  text.insert(0, reinterpret_cast<const char*>(&length), 8);
  write_all(descriptor_, path_, text.data(), static_cast<std::int64_t>(text.size()), 0);
  const bool failed = ::ftruncate(descriptor_, end_) != 0 || ::fsync(descriptor_) != 0;
  const int problem = errno;
  ::close(std::exchange(descriptor_, -1));
  if (failed) throw_system_error("write", path_, problem);
}

void save_safetensors(const fs::path& path, const std::map<std::string, at::Tensor>& tensors) {
  std::int64_t bytes = 0, header = 0;
  for (const auto& [name, tensor] : tensors) {
    bytes += static_cast<std::int64_t>(tensor.nbytes());
    header += header_bytes(name);
  }
  SafetensorsWriter writer(path, header / kUsualEntry + 1, bytes);
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.finish();
}

}  // namespace miq
