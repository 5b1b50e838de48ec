// A pickle machine that cannot run code: it knows the instructions that torch.save writes and builds a tree
// of plain values. Functions and classes are names from a list; a call is noted, never made.
// Source: Lib/pickletools.py of CPython (what each instruction does).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace miq {

/// A value of a pickle. Texts are views of the pickle. Items are indices of other values: a value may stand in
/// several places, even inside itself, so whoever walks a tree must bound its way.
struct PickleValue {
  enum class Kind : std::uint8_t {
    none,
    boolean,  ///< integer 0 or 1
    integer,
    big_integer,  ///< beyond 63 bits: text holds its little-endian bytes
    real,
    text,
    tuple,
    list,
    dict,        ///< dict and OrderedDict: items are key, value, key, value ...
    global,      ///< text: "module.name"
    call,        ///< items: function, argument tuple
    persistent,  ///< items: the id
  };
  Kind kind = Kind::none;
  union {
    std::int64_t integer = 0;
    double real;
  };
  std::string_view text;
  std::vector<std::uint32_t> items;
};

/// What a pickle holds.
struct Pickle {
  std::vector<PickleValue> values;
  std::uint32_t root = 0;
  std::int64_t bytes = 0;  ///< its length, up to and with the STOP instruction

  const PickleValue& at(std::uint32_t index) const { return values[index]; }
  const PickleValue& item(const PickleValue& value, std::size_t i) const { return values[value.items[i]]; }
};

/// Reads the pickle that `content` starts with; its memory is at most a small multiple of the pickle's length.
/// `globals`: the "module.name" that may occur. "collections.OrderedDict" is understood as a dict, and the
/// attributes that BUILD sets are left out.
/// @throws Error{unsupported} for any other global (it could run code) or instruction; Error{io} for a pickle that
/// is cut off, inconsistent, or larger than any checkpoint's.
Pickle read_pickle(std::string_view content, std::span<const std::string_view> globals, const std::string& where);

}  // namespace miq
