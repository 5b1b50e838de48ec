// Small archives and pickles by hand, for what no library would write.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace miq::test {

template <class T>
std::string bytes_of(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

struct ZipPart {
  std::string name, data;
  std::uint16_t method = 0, flags = 0x808;
};

/// A stored archive; `zip64`: sizes and offsets only in Zip64 fields, and a Zip64 directory end.
inline std::string make_zip(const std::vector<ZipPart>& parts, bool zip64 = false) {
  std::string file, directory;
  for (const ZipPart& part : parts) {
    const auto u16 = [](std::size_t value) { return bytes_of(static_cast<std::uint16_t>(value)); };
    const auto u32 = [](std::size_t value) { return bytes_of(static_cast<std::uint32_t>(value)); };
    const std::size_t offset = file.size(), size = part.data.size();
    const std::string common = u16(part.flags) + u16(part.method) + std::string(8, '\0');
    std::string extra;
    if (zip64)
      extra = u16(1) + u16(24) + bytes_of(std::uint64_t{size}) + bytes_of(std::uint64_t{size}) +
              bytes_of(std::uint64_t{offset});
    const std::size_t shown = zip64 ? 0xFFFFFFFF : size;
    directory += "PK\x01\x02" + u16(20) + u16(20) + common + u32(shown) + u32(shown) + u16(part.name.size()) +
                 u16(extra.size()) + std::string(10, '\0') + u32(zip64 ? 0xFFFFFFFF : offset) + part.name + extra;
    file += "PK\x03\x04" + u16(20) + common + u32(size) + u32(size) + u16(part.name.size()) + u16(0) + part.name +
            part.data;
  }
  const auto count = static_cast<std::uint16_t>(parts.size());
  const std::uint64_t offset = file.size(), size = directory.size();
  file += directory;
  if (zip64) {
    const std::uint64_t end = file.size();
    file += "PK\x06\x06" + bytes_of(std::uint64_t{44}) + std::string(12, '\0') + bytes_of(std::uint64_t{count}) +
            bytes_of(std::uint64_t{count}) + bytes_of(size) + bytes_of(offset);
    file += "PK\x06\x07" + bytes_of(std::uint32_t{0}) + bytes_of(end) + bytes_of(std::uint32_t{1});
  }
  file += "PK\x05\x06" + bytes_of(std::uint32_t{0}) + bytes_of(zip64 ? std::uint16_t{0xFFFF} : count) +
          bytes_of(zip64 ? std::uint16_t{0xFFFF} : count) +
          bytes_of(static_cast<std::uint32_t>(zip64 ? 0xFFFFFFFF : size)) +
          bytes_of(static_cast<std::uint32_t>(zip64 ? 0xFFFFFFFF : offset)) + bytes_of(std::uint16_t{0});
  return file;
}

/// Pieces of a protocol 2 pickle.
namespace pickle {
inline std::string text(const std::string& value) {
  return "X" + bytes_of(static_cast<std::uint32_t>(value.size())) + value;
}
inline std::string integer(std::int64_t value) { return "\x8a\x08" + bytes_of(value); }
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string tuple(const std::vector<std::string>& items) {
  std::string all = "(";
  for (const std::string& item : items) all += item;
  return all + "t";
}
inline std::string numbers(const std::vector<std::int64_t>& values) {
  std::vector<std::string> items;
  for (const std::int64_t value : values) items.push_back(integer(value));
  return tuple(items);
}
inline std::string whole(const std::string& body) { return "\x80\x02" + body + "."; }
inline std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string all = "}(";
  for (const auto& [key, value] : items) all += text(key) + value;
  return all + "u";
}
inline std::string storage(const std::string& type, const std::string& key, std::int64_t elements) {
  return tuple({text("storage"), global("torch", type), text(key), text("cpu"), integer(elements)}) + "Q";
}
inline std::string tensor(const std::string& storage, std::int64_t offset, const std::vector<std::int64_t>& shape,
                          const std::vector<std::int64_t>& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple({storage, integer(offset), numbers(shape), numbers(strides), "\x89",
                global("collections", "OrderedDict") + ")R"}) +
         "R";
}
}  // namespace pickle

/// A file of torch.save: data.pkl and storages "0", "1" ...
inline std::string make_torch_file(const std::string& object, const std::vector<std::string>& storages) {
  std::vector<ZipPart> parts = {{"a/data.pkl", object}, {"a/byteorder", "little"}};
  for (std::size_t i = 0; i < storages.size(); ++i) parts.push_back({"a/data/" + std::to_string(i), storages[i]});
  return make_zip(parts);
}

}  // namespace miq::test
