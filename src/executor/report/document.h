// A report between what is known and how it is written: sections of words, tables and figures, the same for HTML and Markdown.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "study.h"

namespace miq::executor::report {

struct Words {
  std::string text;
  bool is_note = false;  ///< small: how to read what stands above
};

struct Bullets {
  std::vector<std::string> items;
};

/// The few figures that matter most, large.
struct Facts {
  struct Fact {
    std::string name, value, beside;
    int verdict = 0;  ///< +1 good, -1 bad
  };
  std::vector<Fact> facts;
};

struct Cell {
  std::string text;
  std::string note = "";   ///< small, behind or below
  std::string css = "";    ///< how HTML shows it; what it says stands in the text too
  std::string title = "";  ///< what a pointer over it tells
  std::string link = "";   ///< the id of a place in the page
  double order = kUnknown;  ///< what the column is sorted by, where the text does not begin with that number
};

struct Table {
  std::string caption;
  std::vector<std::string> head;
  std::vector<std::vector<Cell>> rows;  ///< the first cell names its row
  bool is_map = false;                  ///< a heat map: cells of one width, notes below
  std::vector<std::pair<std::string, std::string>> legend;  ///< of a map: a shade's css and its meaning
};

/// A column without words, which stands to the right.
bool is_numeric(const Table& table, size_t column);

struct Figure {
  std::string title, svg;
  std::vector<std::pair<std::string, std::string>> legend;  ///< mark (SVG) and its meaning
  std::string note;
};

/// Figures side by side where there is room. Markdown has their tables instead.
struct Figures {
  std::vector<Figure> figures;
};

struct Listing {
  std::string text;
};

struct Block;
/// Opens on a click; `id` is its place in the page.
struct Fold {
  std::string title, id;
  std::vector<Block> blocks;
};

struct Block : std::variant<Words, Bullets, Facts, Table, Figures, Listing, Fold> {
  using variant::variant;
};

struct Section {
  std::string id, title;
  std::vector<Block> blocks;
};

struct Document {
  std::string title, subtitle, footer;
  std::vector<Section> sections;
};

Document compose(const Study& study, const std::string& title);

std::string to_html(const Document& document);
std::string to_markdown(const Document& document);
std::string to_csv(const Study& study);

// The sections, in their order; nullopt where there is nothing to tell.
std::optional<Section> summary_section(const Study& study);
std::optional<Section> trade_off_section(const Study& study);
std::optional<Section> runs_section(const Study& study);
std::optional<Section> matrices_section(const Study& study);
std::optional<Section> gates_section(const Study& study);
std::optional<Section> efficiency_section(const Study& study);
std::optional<Section> events_section(const Study& study);
std::optional<Section> environment_section(const Study& study);
/// What a single run measured, by layer and by task; of several, each run's behind a fold.
std::vector<Section> detail_sections(const Study& study);

/// "smollm2", or the models' names where there are several.
std::string models_of(const Study& study);
/// The place of a run's details in the page.
std::string run_id(size_t run);

}  // namespace miq::executor::report
