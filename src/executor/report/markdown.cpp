// The report as Markdown: its words and tables. What a figure shows stands in the table behind it.
#include <algorithm>

#include "document.h"

namespace miq::executor::report {
namespace {

// As text: nothing in it is markup. An underscore inside a word is none in Markdown either.
std::string escaped(const std::string& text) {
  std::string safe;
  const auto is_word = [&](size_t i) { return i < text.size() && (std::isalnum(static_cast<unsigned char>(text[i])) != 0 || text[i] == '_' || (text[i] & 0x80) != 0); };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '&') safe += "&amp;";
    else if (c == '<') safe += "&lt;";
    else if (c == '>') safe += "&gt;";
    else if (c == '\n' || c == '\r' || c == '\t') safe += ' ';
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) safe += "\xEF\xBF\xBD";
    else if (c == '_' && i > 0 && is_word(i - 1) && is_word(i + 1)) safe += c;
    else if (std::string_view("\\`*_[]|~#").find(c) != std::string_view::npos) (safe += '\\') += c;
    else if (c == ':' && text.compare(i, 3, "://") == 0) safe += "&#58;";  // else it becomes a link of itself
    else safe += c;
  }
  return safe;
}

// A first character that would begin a list, a quote or a number's list.
std::string paragraph(const std::string& text) {
  const std::string safe = escaped(text);
  return !safe.empty() && std::string_view("-+=").find(safe[0]) != std::string_view::npos ? "\\" + safe : safe;
}

std::string row_of(const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& cell : cells) line += " " + cell + " |";
  return line + "\n";
}

std::string written(const Table& table) {
  std::string text = table.caption.empty() ? "" : "**" + escaped(table.caption) + "**\n\n";
  std::vector<std::string> head, rule;
  for (size_t c = 0; c < table.head.size(); ++c) {
    head.push_back(escaped(table.head[c]));
    rule.push_back(is_numeric(table, c) ? "--:" : ":--");
  }
  text += row_of(head) + row_of(rule);
  for (const std::vector<Cell>& row : table.rows) {
    std::vector<std::string> cells;
    for (const Cell& cell : row) {
      std::string part = escaped(cell.text) + (cell.note.empty() ? "" : " (" + escaped(cell.note) + ")");
      if (cell.css == "own" || cell.css.ends_with(" own")) part = "**" + part + "**";
      cells.push_back(part);
    }
    text += row_of(cells);
  }
  return text + "\n";
}

std::string written(const std::vector<Block>& blocks, int level);

std::string written(const Block& block, int level) {
  struct Writer {
    int level;
    std::string operator()(const Words& words) const { return words.text.empty() ? "" : words.is_note ? "*" + escaped(words.text) + "*\n\n"
        : paragraph(words.text) + "\n\n"; }
    std::string operator()(const Bullets& bullets) const {
      std::string text;
      for (const std::string& item : bullets.items) text += "- " + paragraph(item) + "\n";
      return text + "\n";
    }
    std::string operator()(const Facts& facts) const {
      Table table;
      table.head = {"", "", ""};
      for (const Facts::Fact& fact : facts.facts) table.rows.push_back({Cell{fact.name}, Cell{fact.value}, Cell{fact.beside}});
      return written(table);
    }
    std::string operator()(const Table& table) const { return report::written(table); }
    std::string operator()(const Figures& figures) const {
      std::string text;
      for (const Figure& figure : figures.figures)
        if (figure.note.starts_with("Full marks")) text += "*" + escaped(figure.title + ". " + figure.note.substr(figure.note.find("Pareto"))) + "*\n\n";
      return text;
    }
    std::string operator()(const Listing& listing) const {
      std::string fence = "```";
      while (listing.text.find(fence) != std::string::npos) fence += "`";
      return fence + "json\n" + listing.text + "\n" + fence + "\n\n";
    }
    std::string operator()(const Fold& fold) const { return std::string(static_cast<size_t>(level), '#') + " " + escaped(fold.title) + "\n\n" +
        report::written(fold.blocks, level + 1); }
    static std::string written(const Table& table) { return report::written(table); }
  };
  return std::visit(Writer{level}, static_cast<const Block::variant&>(block));
}

std::string written(const std::vector<Block>& blocks, int level) {
  std::string text;
  for (const Block& block : blocks) text += written(block, level);
  return text;
}

}  // namespace

std::string to_markdown(const Document& document) {
  std::string text = "# " + escaped(document.title) + "\n\n" + paragraph(document.subtitle) + "\n\n";
  for (const Section& section : document.sections) text += "## " + escaped(section.title) + "\n\n" + written(section.blocks, 3);
  return text + "*" + escaped(document.footer) + "*\n";
}

}  // namespace miq::executor::report
