// The template language of task files: text with {{path|filter}}. No loops and no conditions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace miq::dataset {

/// What a template sees: a row, and the subject it is of.
struct Scope {
  const nlohmann::json& row;
  std::string where;  ///< of the row, for messages: "file:line, document 3"
  std::string subject, description;
};

class Template {
 public:
  Template() = default;
  /// @throws Error{config} at `where` ("tasks/mine.yaml:7:11 prompt") for text that is no template.
  Template(const std::string& text, std::string where);

  /// @throws Error{config} naming the template's place and the row's for a field that is not there or is nothing, Error{io} for
  /// a value that a filter cannot take.
  std::string render(const Scope& scope) const;
  /// The value itself of a template that is one {{path}} and nothing else; any other is its text.
  nlohmann::json value(const Scope& scope) const;
  /// Whether it is one {{path}}, so that its value may be a list.
  bool is_one_path() const { return parts_.size() == 1 && !parts_[0].literal; }
  const std::string& where() const { return where_; }

 private:
  struct Filter {
    int kind = 0;  // row of the table of filters
    std::vector<std::string> arguments;
  };
  struct Part {
    bool literal = true;
    std::string text;                                         // literal text, or the path as written
    std::vector<std::pair<std::string, std::int64_t>> steps;  // a field's name, or "" and an index
    std::vector<Filter> filters;
  };
  friend class TemplateParser;
  nlohmann::json evaluate(const Part& part, const Scope& scope) const;
  nlohmann::json look_up(const Part& part, const Scope& scope) const;
  nlohmann::json filtered(const Part& part, const Filter& filter, const nlohmann::json& value, const Scope& scope) const;
  std::string both_places(const Scope& scope) const;

  std::string where_;
  std::vector<Part> parts_;
};

}  // namespace miq::dataset
