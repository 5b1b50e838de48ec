#include "pickle.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <unordered_map>

#include "miq/core/error.h"
#include "miq/core/text.h"

namespace miq {
namespace {

using Kind = PickleValue::Kind;
using Index = std::uint32_t;
constexpr size_t kMaxBytes = std::size_t{1} << 26, kMaxValues = std::size_t{1} << 21,
                 kMaxInstructions = std::size_t{1} << 24;
constexpr Index kMark = 0xFFFFFFFF;  // on the stack

enum Opcode : unsigned char {
  kMarkOp = '(',
  kStop = '.',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyDict = '}',
  kEmptyList = ']',
  kEmptyTuple = ')',
  kBinFloat = 'G',
  kProto = 0x80,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kShortBinUnicode = 0x8c,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95
};

class Machine {
 public:
  Machine(std::string_view content, std::span<const std::string_view> globals, const std::string& where)
      : content_(content.substr(0, kMaxBytes)), globals_(globals), where_(where) {}

  Pickle run() {
    for (size_t count = 0;; ++count) {
      if (count == kMaxInstructions) malformed("more than " + std::to_string(kMaxInstructions) + " instructions");
      const auto opcode = number<unsigned char>();
      if (opcode == kStop) break;
      step(opcode);
    }
    pickle_.root = pop();
    if (!stack_.empty()) malformed("values are left over at its end");
    pickle_.bytes = static_cast<std::int64_t>(at_);
    return std::move(pickle_);
  }

 private:
  [[noreturn]] void malformed(const std::string& what) const {
    throw Error(ErrorKind::io, "malformed pickle: " + what + " (byte " + std::to_string(at_) + ")", where_,
                "the file is damaged or is no checkpoint of torch.save");
  }

  std::string_view take(size_t bytes) {
    if (bytes > content_.size() - at_) malformed("it ends early");
    at_ += bytes;
    return content_.substr(at_ - bytes, bytes);
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  PickleValue& add(Kind kind) {
    if (pickle_.values.size() == kMaxValues) malformed("more than " + std::to_string(kMaxValues) + " values");
    stack_.push_back(static_cast<Index>(pickle_.values.size()));
    pickle_.values.emplace_back().kind = kind;
    return pickle_.values.back();
  }
  void add_integer(std::int64_t value, Kind kind = Kind::integer) { add(kind).integer = value; }

  Index pop() {
    if (stack_.empty() || stack_.back() == kMark) malformed("a value is missing");
    const Index top = stack_.back();
    stack_.pop_back();
    return top;
  }
  std::vector<Index> pop(size_t count) {
    std::vector<Index> items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    return items;
  }
  std::vector<Index> pop_to_mark() {
    const auto mark = std::find(stack_.rbegin(), stack_.rend(), kMark);
    if (mark == stack_.rend()) malformed("no mark");
    std::vector<Index> items(mark.base(), stack_.end());
    stack_.erase(mark.base() - 1, stack_.end());
    return items;
  }
  // The value on top of the stack, which must be of this kind.
  PickleValue& top(Kind kind) {
    if (stack_.empty() || stack_.back() == kMark || pickle_.values[stack_.back()].kind != kind)
      malformed("an instruction for another kind of value");
    return pickle_.values[stack_.back()];
  }

  void add_items(Kind kind, const std::vector<Index>& items) {
    if (kind == Kind::dict && items.size() % 2 != 0) malformed("a key without a value");
    auto& into = top(kind).items;
    into.insert(into.end(), items.begin(), items.end());
  }
  void tuple(std::vector<Index> items) { add(Kind::tuple).items = std::move(items); }

  void global(const std::string& name) {
    const auto known = std::find(globals_.begin(), globals_.end(), name);
    if (known == globals_.end())
      throw Error(ErrorKind::unsupported,
                  "the pickle refers to '" + printable(name.substr(0, 200)) +
                      "', which is no part of a checkpoint: such a file could run code",
                  where_, "take the model as safetensors, or convert it where you trust its origin");
    add(Kind::global).text = *known;
  }

  std::string line() {
    const size_t end = content_.find('\n', at_);
    if (end == std::string_view::npos || end - at_ > 1000) malformed("a name without an end");
    const std::string text(take(end - at_));
    take(1);
    return text;
  }
  std::string pop_text() {
    const PickleValue& value = pickle_.values[pop()];
    if (value.kind != Kind::text || value.text.size() > 1000) malformed("a name that is no text");
    return std::string(value.text);
  }

  void reduce() {
    const Index arguments = pop(), function = pop();
    if (pickle_.at(function).kind != Kind::global || pickle_.at(arguments).kind != Kind::tuple)
      malformed("a call of something that is no function");
    if (pickle_.at(function).text != "collections.OrderedDict") {
      add(Kind::call).items = {function, arguments};
      return;
    }
    if (!pickle_.at(arguments).items.empty()) malformed("an OrderedDict that starts with items");
    add(Kind::dict);
  }

  void long1() {
    const std::string_view bytes = take(number<unsigned char>());
    if (bytes.size() > 8) {
      add(Kind::big_integer).text = bytes;
      return;
    }
    std::uint64_t value = 0;
    for (size_t i = 0; i < bytes.size(); ++i)
      value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i])) << 8 * i;
    if (!bytes.empty() && (bytes.back() & 0x80) != 0 && bytes.size() < 8)
      value |= ~std::uint64_t{0} << 8 * bytes.size();
    add_integer(static_cast<std::int64_t>(value));
  }

  void put(std::uint32_t key) {
    if (stack_.empty() || stack_.back() == kMark) malformed("nothing to remember");
    memo_[key] = stack_.back();
  }
  void get(std::uint32_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) malformed("a reference to nothing");
    stack_.push_back(found->second);
  }

  void step(unsigned char opcode) {
    switch (opcode) {
      case kProto: {
        const auto protocol = number<unsigned char>();
        if (protocol < 2 || protocol > 5) malformed("protocol " + std::to_string(protocol));
        return;
      }
      case kFrame: return void(take(8));
      case kMarkOp: return stack_.push_back(kMark);
      case kNone: return void(add(Kind::none));
      case kNewTrue: return add_integer(1, Kind::boolean);
      case kNewFalse: return add_integer(0, Kind::boolean);
      case kBinInt: return add_integer(number<std::int32_t>());
      case kBinInt1: return add_integer(number<std::uint8_t>());
      case kBinInt2: return add_integer(number<std::uint16_t>());
      case kLong1: return long1();
      case kBinFloat:
        return void(add(Kind::real).real = std::bit_cast<double>(__builtin_bswap64(number<std::uint64_t>())));
      case kBinUnicode: return text(number<std::uint32_t>());
      case kShortBinUnicode: return text(number<std::uint8_t>());
      case kEmptyTuple: return tuple({});
      case kTuple1: return tuple(pop(1));
      case kTuple2: return tuple(pop(2));
      case kTuple3: return tuple(pop(3));
      case kTuple: return tuple(pop_to_mark());
      case kEmptyList: return void(add(Kind::list));
      case kEmptyDict: return void(add(Kind::dict));
      case kAppend: return add_items(Kind::list, pop(1));
      case kAppends: return add_items(Kind::list, pop_to_mark());
      case kSetItem: return add_items(Kind::dict, pop(2));
      case kSetItems: return add_items(Kind::dict, pop_to_mark());
      case kBinPut: return put(number<std::uint8_t>());
      case kLongBinPut: return put(number<std::uint32_t>());
      case kMemoize: return put(static_cast<std::uint32_t>(memo_.size()));
      case kBinGet: return get(number<std::uint8_t>());
      case kLongBinGet: return get(number<std::uint32_t>());
      case kGlobal: {
        const std::string module = line();
        return global(module + "." + line());
      }
      case kStackGlobal: {
        const std::string name = pop_text();
        return global(pop_text() + "." + name);
      }
      case kReduce: return reduce();
      case kBuild: pop(); return void(top(Kind::dict));
      case kBinPersId: {
        const Index id = pop();
        add(Kind::persistent).items = {id};
        return;
      }
      default: break;
    }
    char code[8];
    std::snprintf(code, sizeof code, "0x%02x", opcode);
    throw Error(ErrorKind::unsupported,
                std::string("the pickle has the instruction ") + code + ", which torch.save does not write", where_,
                "the file is damaged, or no checkpoint; take the model as safetensors");
  }

  void text(size_t bytes) {
    const std::string_view value = take(bytes);
    add(Kind::text).text = value;
  }

  std::string_view content_;
  std::span<const std::string_view> globals_;
  const std::string& where_;
  size_t at_ = 0;
  Pickle pickle_;
  std::vector<Index> stack_;
  std::unordered_map<std::uint32_t, Index> memo_;
};

}  // namespace

Pickle read_pickle(std::string_view content, std::span<const std::string_view> globals, const std::string& where) {
  return Machine(content, globals, where).run();
}

}  // namespace miq
