#include "template.h"

#include "miq/core/error.h"
#include "miq/core/text.h"
#include "python_values.h"

namespace miq::dataset {
namespace {

using nlohmann::json;

enum FilterKind { kStrip, kLstrip, kRstrip, kLower, kCapitalize, kJoin, kBefore, kAfter, kEnsureEnd, kReplace, kLabel };
struct FilterInfo {
  const char* name;
  FilterKind kind;
  size_t least, most;  // arguments
};
constexpr FilterInfo kFilters[] = {{"strip", kStrip, 0, 0},   {"lstrip", kLstrip, 0, 0}, {"rstrip", kRstrip, 0, 0},        {"lower", kLower, 0, 0},
                                   {"capitalize", kCapitalize, 0, 0}, {"join", kJoin, 1, 1}, {"before", kBefore, 1, 1},      {"after", kAfter, 1, 1},
                                   {"ensure_end", kEnsureEnd, 1, 1},  {"replace", kReplace, 2, 2}, {"label", kLabel, 1, 1000}};

}  // namespace

class TemplateParser {
 public:
  TemplateParser(const std::string& text, const std::string& where) : text_(text), where_(where) {}

  std::vector<Template::Part> parse() {
    std::vector<Template::Part> parts;
    while (at_ < text_.size()) {
      const size_t open = text_.find("{{", at_);
      const std::string literal = text_.substr(at_, open == std::string::npos ? open : open - at_);
      if (!literal.empty()) parts.emplace_back().text = literal;
      if (literal.find("{%") != std::string::npos)
        fail("there are no loops or conditions in templates", "give the rows the field they need, or write {{'{%'}} for these characters");
      if (open == std::string::npos) break;
      at_ = open + 2;
      parts.push_back(field());
    }
    return parts;
  }

 private:
  [[noreturn]] void fail(const std::string& what, const std::string& fix) const {
    throw Error(ErrorKind::config, "not a template: " + what + " (character " + std::to_string(at_ + 1) + " of it)", where_, fix);
  }
  void skip_blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n')) ++at_;
  }
  bool accept(char c) {
    skip_blanks();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool quote_follows() {
    skip_blanks();
    return at_ < text_.size() && (text_[at_] == '\'' || text_[at_] == '"');
  }

  std::string quoted() {
    const char quote = text_[at_++];
    std::string out;
    for (; at_ < text_.size() && text_[at_] != quote; ++at_) {
      if (text_[at_] != '\\' || at_ + 1 == text_.size()) {
        out += text_[at_];
        continue;
      }
      const char escaped = text_[++at_];
      out += escaped == 'n' ? '\n' : escaped == 't' ? '\t' : escaped;
    }
    if (at_ == text_.size()) fail("a quoted text does not end", "close it with the quote it began with");
    ++at_;
    return out;
  }

  // A name ends where the language goes on; so that fields may have any name without these characters.
  std::string name() {
    skip_blanks();
    const size_t begin = at_;
    while (at_ < text_.size() && std::string_view(" \t\n|{}[]().,'\"").find(text_[at_]) == std::string_view::npos) ++at_;
    if (at_ == begin) fail("the name of a field is missing", "write {{field}}, {{field.inner}}, {{field[0]}}, {{field|filter}}");
    return text_.substr(begin, at_ - begin);
  }

  void path(Template::Part& part) {
    part.steps.emplace_back(name(), -1);
    for (;;) {
      if (accept('.')) {
        part.steps.emplace_back(name(), -1);
      } else if (accept('[')) {
        const std::string number = name();
        if (number.size() > 9 || number.find_first_not_of("0123456789") != std::string::npos) fail("'" + number + "' is no index of a list", "write {{field[0]}}");
        part.steps.emplace_back("", std::stoll(number));
        if (!accept(']')) fail("']' is missing", "write {{field[0]}}");
      } else {
        return;
      }
    }
  }

  Template::Part field() {
    Template::Part part;
    skip_blanks();
    const size_t begin = at_;
    part.literal = quote_follows();
    if (part.literal) part.text = quoted();  // {{'{{'}}: characters that would begin a field
    else path(part);
    if (!part.literal) part.text = text_.substr(begin, at_ - begin);
    while (accept('|')) {
      if (part.literal) fail("a text has no filters", "write the text as it shall be");
      part.filters.push_back(filter());
    }
    if (!accept('}') || at_ >= text_.size() || text_[at_] != '}') fail("'}}' is missing", "close the field with }}");
    ++at_;
    return part;
  }

  Template::Filter filter() {
    const std::string called = name();
    const auto* const info = std::find_if(std::begin(kFilters), std::end(kFilters), [&](const FilterInfo& f) { return f.name == called; });
    if (info == std::end(kFilters)) {
      std::vector<std::string> names;
      std::string list;
      for (const FilterInfo& f : kFilters) names.emplace_back(f.name), list += (list.empty() ? "" : ", ") + names.back();
      const std::string nearest = nearest_name(called, names);
      fail("unknown filter '" + called + "'", (nearest.empty() ? "" : "did you mean " + nearest + "? ") + ("there are: " + list));
    }
    Template::Filter filter;
    filter.kind = info->kind;
    if (accept('(')) {
      do {
        if (!quote_follows()) fail("the arguments of " + called + " are quoted texts", "write " + called + "('x')");
        filter.arguments.push_back(quoted());
      } while (accept(','));
      if (!accept(')')) fail("')' is missing", "write " + called + "('x')");
    }
    if (filter.arguments.size() < info->least || filter.arguments.size() > info->most)
      fail("the filter " + called + " takes " + (info->most == 0 ? "no argument" : info->least == info->most ? std::to_string(info->least) + " argument(s)" : "arguments"),
           "give it what it takes");
    return filter;
  }

  const std::string& text_;
  const std::string& where_;
  size_t at_ = 0;
};

Template::Template(const std::string& text, std::string where) : where_(std::move(where)), parts_(TemplateParser(text, where_).parse()) {}

std::string Template::both_places(const Scope& scope) const { return where_ + "; data: " + scope.where; }

json Template::look_up(const Part& part, const Scope& scope) const {
  if (part.steps.size() == 1 && part.steps[0].first == "SUBJECT") return scope.subject;
  if (part.steps.size() == 1 && part.steps[0].first == "SUBJECT_DESCRIPTION") return scope.description;
  const json* value = &scope.row;
  std::string so_far;
  for (const auto& [name, index] : part.steps) {
    if (index >= 0) {
      if (!value->is_array() || static_cast<size_t>(index) >= value->size())
        throw Error(ErrorKind::config, "the row has no '" + part.text + "': " + so_far + (value->is_array() ? " has " + std::to_string(value->size()) + " elements" : " is no list"),
                    both_places(scope), "name an element that is there");
      value = &(*value)[static_cast<size_t>(index)];
      so_far += "[" + std::to_string(index) + "]";
      continue;
    }
    if (!value->is_object() || !value->contains(name)) {
      std::vector<std::string> fields;
      std::string list;
      if (value->is_object())
        for (const auto& item : value->items()) fields.push_back(item.key()), list += (list.empty() ? "" : ", ") + item.key();
      const std::string nearest = nearest_name(name, fields);
      throw Error(ErrorKind::config, "the row has no field '" + part.text + "'" + (so_far.empty() || value->is_object() ? "" : ": " + so_far + " has no fields"), both_places(scope),
                  (nearest.empty() ? "" : "did you mean " + nearest + "? ") + "fields" + (so_far.empty() ? "" : " of " + so_far) + ": " + printable(list));
    }
    value = &(*value)[name];
    so_far += (so_far.empty() ? "" : ".") + name;
  }
  if (value->is_null()) throw Error(ErrorKind::config, "the field '" + part.text + "' is null in this row", both_places(scope), "give it a value, or leave the row out");
  return *value;
}

json Template::filtered(const Part& part, const Filter& filter, const json& value, const Scope& scope) const {
  const auto fail = [&](const std::string& what) { throw Error(ErrorKind::io, "the field '" + part.text + "' " + what, both_places(scope), "mend the row or the template"); };
  if (filter.kind == kJoin) {
    if (!value.is_array()) fail("is no list, so that it cannot be joined");
    std::string out;
    for (size_t i = 0; i < value.size(); ++i) out += (i == 0 ? "" : filter.arguments[0]) + python_str(value[i]);
    return out;
  }
  if (value.is_structured()) fail("is a list or a mapping, not a text");
  const std::string text = python_str(value);
  const std::string argument = filter.arguments.empty() ? "" : filter.arguments[0];
  switch (filter.kind) {
    case kStrip: return strip(text);
    case kLstrip: return std::string(lstrip(text));
    case kRstrip: return std::string(rstrip(text));
    case kLower: return lower(text);
    case kCapitalize: return capitalized(text);
    case kReplace: return argument.empty() ? text : replace(text, argument, filter.arguments[1]);
    case kEnsureEnd: return text.size() >= argument.size() && text.compare(text.size() - argument.size(), argument.size(), argument) == 0 ? text : text + argument;
    case kBefore:
    case kAfter: {
      const size_t found = text.find(argument);
      if (found == std::string::npos) fail("does not contain '" + argument + "'");
      return filter.kind == kBefore ? text.substr(0, found) : text.substr(found + argument.size());
    }
    default: break;
  }
  const bool digits = !text.empty() && text.size() < 9 && text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || std::stoul(text) >= filter.arguments.size())
    fail("is '" + text.substr(0, 60) + "', which is none of the labels 0 .. " + std::to_string(filter.arguments.size() - 1));
  return filter.arguments[std::stoul(text)];
}

json Template::evaluate(const Part& part, const Scope& scope) const {
  json value = look_up(part, scope);
  for (const Filter& filter : part.filters) value = filtered(part, filter, value, scope);
  return value;
}

std::string Template::render(const Scope& scope) const {
  std::string out;
  for (const Part& part : parts_) out += part.literal ? part.text : python_str(evaluate(part, scope));
  return out;
}

json Template::value(const Scope& scope) const {
  if (is_one_path()) return evaluate(parts_[0], scope);
  return render(scope);
}

}  // namespace miq::dataset
