// What decoders share: tensors with the type and shape they must have, numbers of a configuration, patterns of names.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "miq/core/error.h"
#include "miq/format/format.h"

namespace miq::format {

/// The tensors of a checkpoint, asked for with what they must be.
class Contents {
 public:
  Contents(std::shared_ptr<const TensorSource> source, std::string where);

  const std::string& where() const { return where_; }
  const std::map<std::string, TensorSpec>& specs() const { return specs_; }
  bool has(const std::string& name) const { return specs_.count(name) != 0; }
  /// @throws Error{io} when it is missing, or has not `dims` dimensions, all positive.
  const TensorSpec& spec(const std::string& name, size_t dims) const;
  /// A contiguous tensor. -1 in `shape` is any size. @throws Error{io} on another type or shape.
  at::Tensor read(const std::string& name, const std::vector<at::ScalarType>& types, const std::vector<std::int64_t>& shape) const;
  /// Names without `suffix` of all tensors that end in it, sorted.
  std::vector<std::string> named(const std::string& suffix) const;
  /// @throws Error{io}: "<name>: <what>", in this checkpoint.
  [[noreturn]] void refuse(const std::string& name, const std::string& what) const;

 private:
  std::shared_ptr<const TensorSource> source_;
  std::string where_;
  std::map<std::string, TensorSpec> specs_;
};

/// A decoder whose schemes are known when it is made.
class TableDecoder : public Decoder {
 public:
  explicit TableDecoder(Contents contents) : contents_(std::move(contents)) {}
  const std::vector<Scheme>& linears() const override { return schemes_; }
  bool owns(const std::string& tensor) const override { return owned_.count(tensor) != 0; }

 protected:
  void add(Scheme scheme, const std::vector<std::string>& tensors);
  /// @throws Error{io} for a linear that is not there.
  const Scheme& scheme(const std::string& name) const;

  Contents contents_;
  std::set<std::string> owned_;

 private:
  std::vector<Scheme> schemes_;
  std::map<std::string, size_t> index_;
};

/// Values of a JSON object from a stranger; `where` names the object. Absent and null: the fallback, if there is one.
/// @throws Error{io} naming the key, for a value that is missing, of another type or out of range.
std::int64_t whole_number(const nlohmann::json& object, const std::string& key, std::int64_t low, std::int64_t high, const std::string& where,
                          std::optional<std::int64_t> fallback = std::nullopt);
bool flag(const nlohmann::json& object, const std::string& key, const std::string& where, std::optional<bool> fallback = std::nullopt);
std::string text(const nlohmann::json& object, const std::string& key, const std::string& where, std::optional<std::string> fallback = std::nullopt);
/// The object under `key`, or an empty one.
const nlohmann::json& member(const nlohmann::json& object, const std::string& key, const std::string& where);
std::vector<std::string> texts(const nlohmann::json& object, const std::string& key, const std::string& where);

constexpr std::int64_t kMaxGroup = 1 << 20;  ///< a larger group size is no group size

/// A regular expression over names as Python's re.match takes it: anchored at the start only. Those that quote one whole
/// name (as exact_pattern makes them) are compared, so that a pattern for each linear costs nothing.
class NamePattern {
 public:
  /// @throws Error{io} naming the pattern, when it is none or absurdly long.
  NamePattern(const std::string& pattern, const std::string& where);
  bool matches(const std::string& name) const;

 private:
  std::optional<std::string> literal_;
  std::regex regex_;
};
/// "^model\\.layers\\.0\\.mlp\\.down_proj$"
std::string exact_pattern(const std::string& name);

/// Whether the linear is the head (not in a block).
bool is_head(const std::string& linear);

/// vLLM multiplies q, k, v and gate, up at once: the name of the linear that this one becomes a part of; "": stays itself.
std::string fused_name(const std::string& linear);
/// How many linears a fused one is made of.
size_t fused_parts(const std::string& fused);

/// Scales as stored: [O, G] of `dtype`. @throws Error{unsupported} when that would change them.
at::Tensor stored_scales(const NamedLinear& linear, at::ScalarType dtype);
/// Whole zeros 0 .. 2^bits - 1, uint8 [O, G]. @throws Error{unsupported} for others.
at::Tensor stored_zeros(const NamedLinear& linear);

/// What no format of servers holds; nullopt: nothing of that kind. `format` begins the sentence.
std::optional<std::string> why_not_plain(const Scheme& scheme, const std::string& format);
/// Group size as configurations say it: -1 when there is one scale for each row.
std::int64_t declared_group(const Scheme& scheme);
/// Whether the last group is shorter than the others.
bool is_ragged(const Scheme& scheme);
/// Appends "<server> <what>: <first linear with a reason> <reason>" when there is one.
template <class Reason>
void warn_first(std::vector<std::string>& out, const std::string& sentence, const std::vector<Scheme>& schemes, const Reason& reason) {
  for (const Scheme& scheme : schemes)
    if (const std::optional<std::string> why = reason(scheme)) {
      out.push_back(sentence + ": " + scheme.name + " " + *why);
      return;
    }
}

/// What vLLM refuses of linears that it fuses: parts that are not the `same`, or of which some stay in float.
template <class Same>
void warn_of_fused(std::vector<std::string>& out, const std::vector<Scheme>& schemes, const Same& same) {
  std::map<std::string, std::vector<const Scheme*>> parts;
  for (const Scheme& scheme : schemes)
    if (const std::string fused = fused_name(scheme.name); !fused.empty()) parts[fused].push_back(&scheme);
  warn_first(out, "vLLM needs one scheme for q, k, v and one for gate, up, or float for all of them", schemes,
             [&](const Scheme& scheme) -> std::optional<std::string> {
               const auto found = parts.find(fused_name(scheme.name));
               if (found == parts.end()) return std::nullopt;
               if (found->second.size() < fused_parts(found->first)) return "has a neighbour in float";
               const Scheme& first = *found->second.front();
               return same(first, scheme) ? std::nullopt : std::optional("differs from " + first.name);
             });
}

}  // namespace miq::format
