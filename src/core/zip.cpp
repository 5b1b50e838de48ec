#include "zip.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "miq/core/error.h"
#include "miq/core/text.h"

namespace miq {
namespace {

constexpr std::uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50,
                        kEnd64Locator = 0x07064b50;
constexpr std::int64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kEnd64Bytes = 56, kLocatorBytes = 20;
constexpr std::uint64_t kMaxEntries = 1 << 20;
constexpr std::uint16_t kEncrypted = 0x2041;  // encryption, strong encryption, masked headers
constexpr std::uint32_t kSeeZip64 = 0xFFFFFFFF;

class Reader {
 public:
  explicit Reader(const MappedFile& file) : file_(file), end_(file.size()) {}

  std::map<std::string, ZipEntry> read() {
    find_directory();
    std::map<std::string, ZipEntry> entries;
    std::vector<Span> spans;
    std::int64_t at = directory_;
    for (std::uint64_t i = 0; i < count_; ++i) at = read_entry(at, entries, spans);
    if (at != directory_end_) malformed("the directory's length is not that of its entries");
    std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
    for (size_t i = 1; i < spans.size(); ++i)
      if (spans[i].begin < spans[i - 1].end) malformed("entries overlap at byte " + std::to_string(spans[i].begin));
    return entries;
  }

 private:
  struct Span {
    std::int64_t begin, end;
  };

  [[noreturn]] void malformed(const std::string& what) const {
    throw Error(ErrorKind::io, "malformed zip archive: " + what, file_.path().string(),
                "the file is damaged or was not fully downloaded; fetch it again");
  }
  [[noreturn]] void unsupported(const std::string& what) const {
    throw Error(ErrorKind::unsupported, "a zip archive with " + what, file_.path().string(),
                "torch.save stores its entries uncompressed; save the checkpoint again, best as safetensors");
  }

  // A number at `at`, which must lie before `end_`.
  template <class T>
  T number(std::int64_t at) const {
    if (at < 0 || at > end_ - static_cast<std::int64_t>(sizeof(T))) malformed("it ends early");
    T value;
    std::memcpy(&value, file_.data() + at, sizeof value);
    return value;
  }
  // A 64-bit offset or length as a signed one.
  std::int64_t length(std::uint64_t value) const {
    if (value > static_cast<std::uint64_t>(file_.size())) malformed("an offset or length beyond the file's end");
    return static_cast<std::int64_t>(value);
  }

  void find_directory() {
    const std::int64_t size = file_.size();
    std::int64_t at = size - kEndBytes;
    const std::int64_t lowest = std::max<std::int64_t>(0, at - 0xFFFF);  // a comment is at most that long
    while (at >= lowest &&
           !(number<std::uint32_t>(at) == kEnd && number<std::uint16_t>(at + 20) == size - at - kEndBytes))
      --at;
    if (at < lowest) malformed("no directory at its end");
    if (number<std::uint16_t>(at + 4) != 0 || number<std::uint16_t>(at + 6) != 0 ||
        number<std::uint16_t>(at + 8) != number<std::uint16_t>(at + 10))
      unsupported("several parts");
    count_ = number<std::uint16_t>(at + 10);
    std::uint64_t bytes = number<std::uint32_t>(at + 12), offset = number<std::uint32_t>(at + 16);
    directory_end_ = at;
    const std::int64_t locator = at - kLocatorBytes;
    if (locator >= 0 && number<std::uint32_t>(locator) == kEnd64Locator) {
      directory_end_ = length(number<std::uint64_t>(locator + 8));
      if (number<std::uint32_t>(directory_end_) != kEnd64 || directory_end_ > locator - kEnd64Bytes)
        malformed("no Zip64 directory where its locator says");
      count_ = number<std::uint64_t>(directory_end_ + 32);
      bytes = number<std::uint64_t>(directory_end_ + 40);
      offset = number<std::uint64_t>(directory_end_ + 48);
      if (number<std::uint64_t>(directory_end_ + 24) != count_) unsupported("several parts");
    }
    directory_ = length(offset);
    if (directory_ > directory_end_ || directory_end_ - directory_ != length(bytes))
      malformed("the directory is not where its end says");
    if (count_ > kMaxEntries) malformed(std::to_string(count_) + " entries");
    end_ = directory_end_;
  }

  // The directory's entry at `at`; returns where the next one starts.
  std::int64_t read_entry(std::int64_t at, std::map<std::string, ZipEntry>& entries, std::vector<Span>& spans) const {
    if (number<std::uint32_t>(at) != kCentralHeader)
      malformed("no entry at byte " + std::to_string(at) + " of the directory");
    const auto flags = number<std::uint16_t>(at + 8), method = number<std::uint16_t>(at + 10);
    const std::int64_t name_bytes = number<std::uint16_t>(at + 28), extra_bytes = number<std::uint16_t>(at + 30);
    const std::int64_t next = at + kCentralBytes + name_bytes + extra_bytes + number<std::uint16_t>(at + 32);
    if (next > end_) malformed("the directory ends early");
    const std::string name(file_.view(at + kCentralBytes, name_bytes));
    check_name(name);
    if ((flags & kEncrypted) != 0) unsupported("the encrypted entry '" + name + "'");
    if (method != 0) unsupported("the compressed entry '" + name + "'");
    std::uint64_t sizes[3] = {number<std::uint32_t>(at + 24), number<std::uint32_t>(at + 20),
                              number<std::uint32_t>(at + 42)};
    read_zip64(at + kCentralBytes + name_bytes, extra_bytes, sizes);
    if (sizes[0] != sizes[1]) malformed("'" + name + "' is stored, yet its two sizes differ");
    ZipEntry entry;
    entry.bytes = length(sizes[0]);
    const std::int64_t local = length(sizes[2]);
    if (local > directory_ - kLocalBytes || number<std::uint32_t>(local) != kLocalHeader)
      malformed("no header of '" + name + "' where the directory says");
    if (number<std::uint16_t>(local + 8) != method || number<std::uint16_t>(local + 26) != name_bytes ||
        local + kLocalBytes + name_bytes > directory_ || file_.view(local + kLocalBytes, name_bytes) != name)
      malformed("header and directory disagree on '" + name + "'");
    entry.offset = local + kLocalBytes + name_bytes + number<std::uint16_t>(local + 28);
    if (entry.offset > directory_ || entry.bytes > directory_ - entry.offset)
      malformed("'" + name + "' lies outside the file");
    spans.push_back({local, entry.offset + entry.bytes});
    if (!entries.emplace(name, entry).second) malformed("'" + name + "' comes twice");
    return next;
  }

  // Replaces those of {size, stored size, offset} that stand in the Zip64 field.
  void read_zip64(std::int64_t at, std::int64_t bytes, std::uint64_t (&sizes)[3]) const {
    const std::int64_t end = at + bytes;
    while (end - at >= 4) {
      const auto tag = number<std::uint16_t>(at);
      const std::int64_t field_end = at + 4 + number<std::uint16_t>(at + 2);
      if (field_end > end) malformed("an extra field ends early");
      at += 4;
      if (tag == 1)
        for (std::uint64_t& size : sizes) {
          if (size != kSeeZip64) continue;
          if (field_end - at < 8) malformed("a Zip64 field ends early");
          size = number<std::uint64_t>(at);
          at += 8;
        }
      at = field_end;
    }
  }

  void check_name(const std::string& name) const {
    bool bad = name.empty() || name.size() > 4096 || name.front() == '/';
    for (const char c : name) bad = bad || static_cast<unsigned char>(c) < 32 || c == '\\';
    const std::string framed = "/" + name + "/";
    if (bad || framed.find("/../") != std::string::npos || framed.find("/./") != std::string::npos)
      malformed("the entry name '" + printable(name.substr(0, 80)) + "'");
  }

  const MappedFile& file_;
  std::int64_t end_;  // of what may be read
  std::int64_t directory_ = 0, directory_end_ = 0;
  std::uint64_t count_ = 0;
};

}  // namespace

bool is_zip(std::string_view content) {
  return content.substr(0, 4) == "PK\x03\x04" || content.substr(0, 4) == "PK\x05\x06";
}

std::map<std::string, ZipEntry> read_zip_directory(const MappedFile& file) { return Reader(file).read(); }

}  // namespace miq
