#include "torch_storage.h"

#include <algorithm>
#include <cstring>

#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/text.h"

namespace miq {
namespace {

using Kind = PickleValue::Kind;

struct StorageType {
  std::string_view name;
  at::ScalarType dtype;
};
constexpr StorageType kStorageTypes[] = {
    {"torch.FloatStorage", at::kFloat},
    {"torch.HalfStorage", at::kHalf},
    {"torch.BFloat16Storage", at::kBFloat16},
    {"torch.DoubleStorage", at::kDouble},
    {"torch.CharStorage", at::kChar},
    {"torch.ByteStorage", at::kByte},
    {"torch.ShortStorage", at::kShort},
    {"torch.IntStorage", at::kInt},
    {"torch.LongStorage", at::kLong},
    {"torch.BoolStorage", at::kBool},
    {"torch.storage.UntypedStorage", at::kByte},
};

// All that a pickle may refer to. None of these runs anything: calls of them are read, not made.
constexpr std::string_view kGlobals[] = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_sparse_tensor",
    "torch.serialization._get_layout",
    "torch.Size",
    "torch.FloatStorage",
    "torch.HalfStorage",
    "torch.BFloat16Storage",
    "torch.DoubleStorage",
    "torch.CharStorage",
    "torch.ByteStorage",
    "torch.ShortStorage",
    "torch.IntStorage",
    "torch.LongStorage",
    "torch.BoolStorage",
    "torch.storage.UntypedStorage",
    "torch.float32",
    "torch.float16",
    "torch.bfloat16",
    "torch.float64",
    "torch.int64",
    "torch.int32",
    "torch.int16",
    "torch.int8",
    "torch.uint8",
    "torch.bool",
    "torch.uint16",
    "torch.uint32",
    "torch.uint64",
    "torch.float8_e4m3fn",
    "torch.float8_e5m2",
    "torch.float8_e8m0fnu",
};

// The number 0x1950a86a20f9469cfc6c that the older kind starts with, little-endian.
constexpr std::string_view kLegacyMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
constexpr std::int64_t kLegacyProtocol = 1001;

[[noreturn]] void malformed(const std::filesystem::path& path, const std::string& what) {
  throw Error(ErrorKind::io, "malformed file of torch.save: " + what, path.string(),
              "the file is damaged, was not fully downloaded, or is no checkpoint");
}

std::int64_t element_bytes(at::ScalarType dtype) { return static_cast<std::int64_t>(c10::elementSize(dtype)); }

TorchArchive open_zip(const MappedFile& file) {
  const auto entries = read_zip_directory(file);
  const std::string_view pickle_name = "/data.pkl";
  std::string folder;
  for (const auto& [name, entry] : entries)
    if (name.ends_with(pickle_name) && name.find('/') == name.size() - pickle_name.size()) {
      if (!folder.empty()) malformed(file.path(), "two objects in one archive");
      folder = name.substr(0, name.size() - pickle_name.size());
    }
  if (folder.empty()) malformed(file.path(), "an archive without data.pkl");
  if (const auto order = entries.find(folder + "/byteorder"); order != entries.end())
    if (file.view(order->second.offset, order->second.bytes) != "little")
      throw Error(ErrorKind::unsupported, "a file of torch.save that is not little-endian", file.path().string(),
                  "save it again on a little-endian machine, best as safetensors");
  TorchArchive archive;
  const ZipEntry& object = entries.at(folder + std::string(pickle_name));
  archive.pickle = read_pickle(file.view(object.offset, object.bytes), kGlobals, file.path().string() + " (data.pkl)");
  const std::string data = folder + "/data/";
  for (auto entry = entries.lower_bound(data); entry != entries.end() && entry->first.starts_with(data); ++entry)
    archive.storages.emplace(entry->first.substr(data.size()), entry->second);
  return archive;
}

// Five pickles - magic, protocol, system, object, storage keys - and the storages, each behind its length.
class LegacyReader {
 public:
  explicit LegacyReader(const MappedFile& file) : file_(file) {}

  TorchArchive read() {
    const Pickle magic = next();
    if (magic.at(magic.root).kind != Kind::big_integer || magic.at(magic.root).text != kLegacyMagic)
      malformed(file_.path(), "neither a zip archive nor the older kind");
    const Pickle protocol = next(), system = next();
    if (protocol.at(protocol.root).kind != Kind::integer || protocol.at(protocol.root).integer != kLegacyProtocol)
      malformed(file_.path(), "an unknown protocol");
    check_byte_order(system);
    TorchArchive archive;
    archive.pickle = next();
    const std::map<std::string, StorageReference> references = referenced(archive.pickle);
    const Pickle keys = next();
    const PickleValue& list = keys.at(keys.root);
    if (list.kind != Kind::list) malformed(file_.path(), "no list of storages");
    for (size_t i = 0; i < list.items.size(); ++i) {
      const auto reference = references.find(std::string(keys.item(list, i).text));
      if (reference == references.end()) malformed(file_.path(), "a storage that no tensor refers to");
      const ZipEntry entry = storage(reference->second);
      if (!archive.storages.emplace(reference->first, entry).second) malformed(file_.path(), "a storage comes twice");
    }
    return archive;
  }

 private:
  Pickle next() {
    Pickle pickle = read_pickle(file_.view(at_, file_.size() - at_), kGlobals, file_.path().string());
    at_ += pickle.bytes;
    return pickle;
  }

  void check_byte_order(const Pickle& system) const {
    const PickleValue& facts = system.at(system.root);
    if (facts.kind != Kind::dict) malformed(file_.path(), "no system information");
    for (size_t i = 0; i + 1 < facts.items.size(); i += 2)
      if (system.item(facts, i).text == "little_endian" && system.item(facts, i + 1).kind == Kind::boolean &&
          system.item(facts, i + 1).integer == 0)
        throw Error(ErrorKind::unsupported, "a file of torch.save that is not little-endian", file_.path().string(),
                    "save it again on a little-endian machine, best as safetensors");
  }

  std::map<std::string, StorageReference> referenced(const Pickle& pickle) const {
    std::map<std::string, StorageReference> references;
    for (const PickleValue& value : pickle.values) {
      if (value.kind != Kind::persistent) continue;
      const StorageReference reference = storage_reference(pickle, pickle.item(value, 0), file_.path());
      const auto [place, is_new] = references.emplace(reference.key, reference);
      if (!is_new && (place->second.dtype != reference.dtype || place->second.elements != reference.elements))
        malformed(file_.path(), "storage '" + printable(reference.key) + "' has two types or sizes");
    }
    return references;
  }

  ZipEntry storage(const StorageReference& reference) {
    std::int64_t elements = 0;
    if (file_.size() - at_ < 8) malformed(file_.path(), "it ends before storage '" + printable(reference.key) + "'");
    std::memcpy(&elements, file_.data() + at_, 8);
    at_ += 8;
    const auto bytes = elements < 0 ? std::nullopt : checked_product(elements, element_bytes(reference.dtype));
    if (!bytes || *bytes > file_.size() - at_)
      malformed(file_.path(), "it ends inside storage '" + printable(reference.key) + "'");
    const ZipEntry entry{at_, *bytes};
    at_ += *bytes;
    return entry;
  }

  const MappedFile& file_;
  std::int64_t at_ = 0;
};

}  // namespace

std::optional<at::ScalarType> torch_dtype(std::string_view name) {
  if (!name.starts_with("torch.")) return std::nullopt;
  return dtype_from_name(std::string(name.substr(6)));
}

StorageReference storage_reference(const Pickle& pickle, const PickleValue& value, const std::filesystem::path& path) {
  // A tensor refers to the persistent value, whose item is the id: ("storage", type, key, location, elements[, part]).
  const PickleValue& id = value.kind == Kind::persistent ? pickle.item(value, 0) : value;
  const auto fail = [&]() { malformed(path, "a reference to a storage that is none"); };
  if (id.kind != Kind::tuple || id.items.size() < 5) fail();
  const PickleValue &tag = pickle.item(id, 0), &type = pickle.item(id, 1), &key = pickle.item(id, 2),
                    &elements = pickle.item(id, 4);
  if (tag.kind != Kind::text || tag.text != "storage" || type.kind != Kind::global || key.kind != Kind::text ||
      key.text.size() > 1000 || elements.kind != Kind::integer || elements.integer < 0)
    fail();
  const auto known = std::find_if(std::begin(kStorageTypes), std::end(kStorageTypes),
                                  [&](const StorageType& row) { return row.name == type.text; });
  if (known == std::end(kStorageTypes)) fail();
  StorageReference reference{std::string(key.text), known->dtype, elements.integer, 0, elements.integer};
  if (id.items.size() < 6 || pickle.item(id, 5).kind != Kind::tuple) return reference;
  const PickleValue& part = pickle.item(id, 5);  // (key, first, count)
  if (part.items.size() != 3 || pickle.item(part, 1).kind != Kind::integer ||
      pickle.item(part, 2).kind != Kind::integer)
    fail();
  reference.first = pickle.item(part, 1).integer;
  reference.count = pickle.item(part, 2).integer;
  if (reference.first < 0 || reference.count < 0 || reference.first > reference.elements ||
      reference.count > reference.elements - reference.first)
    fail();
  return reference;
}

ZipEntry TorchArchive::locate(const StorageReference& storage, const std::filesystem::path& path) const {
  const auto found = storages.find(storage.key);
  if (found == storages.end()) malformed(path, "storage '" + printable(storage.key) + "' is missing");
  const std::int64_t element = element_bytes(storage.dtype);
  const auto bytes = checked_product(storage.elements, element);
  if (!bytes || *bytes > found->second.bytes)
    malformed(path, "storage '" + printable(storage.key) + "' has " + std::to_string(found->second.bytes) +
                        " bytes, not " + std::to_string(storage.elements) + " elements of " + std::to_string(element));
  return {found->second.offset + storage.first * element, storage.count * element};
}

TorchArchive open_torch_archive(const MappedFile& file) {
  const std::string_view content = file.view(0, file.size());
  if (is_zip(content)) return open_zip(file);
  if (!content.starts_with('\x80')) malformed(file.path(), "neither a zip archive nor the older kind");
  return LegacyReader(file).read();
}

}  // namespace miq
