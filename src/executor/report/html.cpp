// The report as one page that needs nothing else.
#include <algorithm>

#include "document.h"
#include "html_style.h"
#include "numbers.h"
#include "svg.h"

namespace miq::executor::report {
namespace {

std::string attribute(const char* name, const std::string& value) { return value.empty() ? "" : std::string(" ") + name + "=\"" + html_escaped(value) + "\""; }

std::string joined(const std::string& a, const std::string& b) { return a.empty() ? b : b.empty() ? a : a + " " + b; }

// Where a long name may break: behind commas and slashes.
std::string breakable(const std::string& text) {
  std::string whole;
  for (const char c : html_escaped(text)) {
    whole += c;
    if (c == ',' || c == '/') whole += "<wbr>";
  }
  return whole;
}

std::string written(const Cell& cell, bool names_row, bool numeric) {
  std::string text = names_row ? breakable(cell.text) : html_escaped(cell.text);
  if (!cell.link.empty()) text = "<a href=\"#" + html_escaped(cell.link) + "\">" + text + "</a>";
  if (!cell.note.empty()) text += "<small>" + html_escaped(cell.note) + "</small>";
  if (names_row) text = "<span>" + text + "</span>";
  const std::string open = names_row ? "<th scope=\"row\"" : "<td";
  return open + attribute("class", joined(numeric && !names_row ? "n" : "", cell.css)) + attribute("data-v", names_row ? "" : exact_text(cell.order)) +
      attribute("title", cell.title) + ">" + text + (names_row ? "</th>" : "</td>");
}

std::string legend_of(const Table& table) {
  if (table.legend.empty()) return "";
  std::string text = "<span class=\"legend\">";
  for (const auto& [css, meaning] : table.legend) text += "<span><i class=\"" + css + "\"></i>" + html_escaped(meaning) + "</span>";
  return text + "</span>";
}

std::string written(const Table& table) {
  std::vector<bool> numeric;
  for (size_t c = 0; c < table.head.size(); ++c) numeric.push_back(!table.is_map && is_numeric(table, c));
  const bool sorts = !table.is_map && table.rows.size() > 2;
  std::string text = "<div class=\"scroll tables\" tabindex=\"0\" role=\"region\"" + attribute("aria-label", table.caption.empty() ? "Table" : table.caption) + "><table" +
                     attribute("class", table.is_map ? "map" : sorts ? "sorts" : "") + ">";
  if (!table.caption.empty() || !table.legend.empty()) text += "<caption>" + html_escaped(table.caption) + legend_of(table) + "</caption>";
  text += "<thead><tr>";
  for (size_t c = 0; c < table.head.size(); ++c) text += std::string("<th scope=\"col\"") + (numeric[c] ? " class=\"n\"" : "") + ">" +
      (table.is_map ? breakable(table.head[c]) : html_escaped(table.head[c])) + "</th>";
  text += "</tr></thead>\n<tbody>";
  for (const std::vector<Cell>& row : table.rows) {
    text += "<tr>";
    for (size_t c = 0; c < row.size(); ++c) text += written(row[c], c == 0, c < numeric.size() && numeric[c]);
    text += "</tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

std::string written(const Figure& figure) {
  const bool is_wide = figure.svg.starts_with("<svg viewBox=\"0 0 960 ");
  std::string text = std::string("<figure class=\"") + (is_wide ? "wide" : "half") + "\"><figcaption>" + html_escaped(figure.title) + "</figcaption>";
  if (!figure.legend.empty()) {
    text += "<ul class=\"legend\">";
    for (const auto& [mark, meaning] : figure.legend) text += "<li>" + mark + html_escaped(meaning) + "</li>";
    text += "</ul>";
  }
  text += "<div class=\"scroll\" tabindex=\"0\" role=\"region\"" + attribute("aria-label", figure.title) + ">" + figure.svg + "</div>";
  if (!figure.note.empty()) text += "<p class=\"note\">" + html_escaped(figure.note) + "</p>";
  return text + "</figure>\n";
}

std::string written(const std::vector<Block>& blocks);

struct BlockWriter {
  std::string operator()(const Words& words) const { return words.text.empty() ? "" : std::string("<p") + (words.is_note ? " class=\"note\"" : "") + ">" +
      html_escaped(words.text) + "</p>\n"; }
  std::string operator()(const Bullets& bullets) const {
    std::string text = "<ul>";
    for (const std::string& item : bullets.items) text += "<li>" + html_escaped(item) + "</li>\n";
    return text + "</ul>\n";
  }
  std::string operator()(const Facts& facts) const {
    std::string text = "<dl class=\"facts\">";
    for (const Facts::Fact& fact : facts.facts)
      text += "<div><dt>" + html_escaped(fact.name) + "</dt><dd>" + html_escaped(fact.value) +
          (fact.verdict < 0 ? " <span class=\"bad\" title=\"significantly worse\">▼</span>" : fact.verdict > 0
          ? " <span class=\"good\" title=\"significantly better\">▲</span>" : "") +
              "</dd>" + (fact.beside.empty() ? "" : "<dd class=\"beside\">" + html_escaped(fact.beside) + "</dd>") + "</div>\n";
    return text + "</dl>\n";
  }
  std::string operator()(const Table& table) const { return written(table); }
  std::string operator()(const Figures& figures) const {
    std::string text = figures.figures.size() > 1 ? "<div class=\"figures\">" : "<div class=\"figures alone\">";
    for (const Figure& figure : figures.figures) text += written(figure);
    return text + "</div>\n";
  }
  std::string operator()(const Listing& listing) const { return "<pre tabindex=\"0\">" + html_escaped(listing.text) + "</pre>\n"; }
  std::string operator()(const Fold& fold) const { return "<details" + attribute("id", fold.id) + "><summary>" + html_escaped(fold.title) + "</summary>\n" +
      written(fold.blocks) + "</details>\n"; }
};

std::string written(const std::vector<Block>& blocks) {
  std::string text;
  for (const Block& block : blocks) text += std::visit(BlockWriter(), static_cast<const Block::variant&>(block));
  return text;
}

}  // namespace

std::string to_html(const Document& document) {
  std::string text = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n"
                     "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n<title>" +
                     html_escaped(document.title) + "</title>\n<style>" + kStyle + "</style>\n</head>\n<body>\n<header><h1>" + html_escaped(document.title) + "</h1>";
  if (!document.subtitle.empty()) text += "<p class=\"sub\">" + html_escaped(document.subtitle) + "</p>";
  text += "<nav aria-label=\"Sections\">";
  for (const Section& section : document.sections) text += "<a href=\"#" + section.id + "\">" + html_escaped(section.title) + "</a>\n";
  text += "</nav></header>\n" + mark_shapes() + "\n<main>\n";
  for (const Section& section : document.sections) text += "<section id=\"" + section.id + "\"><h2>" + html_escaped(section.title) + "</h2>\n" +
      written(section.blocks) + "</section>\n";
  return text + "</main>\n<footer><p>" + html_escaped(document.footer) + "</p></footer>\n<script>" + kScript + "</script>\n</body>\n</html>\n";
}

}  // namespace miq::executor::report
