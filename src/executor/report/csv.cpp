// The figures of all runs as one tidy table (RFC 4180): a row for each.
#include <algorithm>

#include "document.h"
#include "numbers.h"

namespace miq::executor::report {
namespace {

std::string field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string count_field(std::int64_t count) { return count < 0 ? "" : std::to_string(count); }

struct Writer {
  std::string text, begin;  // begin: the run's own columns

  void row(const std::vector<std::string>& cells) {
    text += begin;
    for (size_t c = 0; c < cells.size(); ++c) text += (c == 0 ? "" : ",") + field(cells[c]);
    text += "\r\n";
  }
  void score(const Score& s) {
    row({s.what, s.name, s.split, s.detail, count_field(s.shots), count_field(s.count), s.metric, exact_text(s.value), exact_text(s.standard_error),
        exact_text(s.low), exact_text(s.high), exact_text(s.baseline),
         exact_text(s.p_value), exact_text(s.p_value_holm)});
  }
  void cost(const std::string& metric, double value, double baseline = kUnknown) {
    if (!std::isnan(value)) row({"quantization", "", "", "", "", "", metric, exact_text(value), "", "", "", exact_text(baseline), "", ""});
  }
};

}  // namespace

std::string to_csv(const Study& study) {
  Writer writer;
  std::vector<std::string> head = {"run", "model"};
  for (const Axis& axis : study.axes) head.push_back(axis.key);
  for (const char* name : {"what", "name", "split", "detail", "shots", "count", "metric", "value", "stderr", "ci95_low", "ci95_high", "baseline", "p_value",
      "p_value_holm"}) head.push_back(name);
  writer.row(head);
  for (const Run& run : study.runs) {
    writer.begin = field(run.name) + "," + field(run.model) + ",";
    for (const Axis& axis : study.axes) {
      const auto own = std::find_if(run.settings.begin(), run.settings.end(), [&](const auto& setting) { return setting.first == axis.key; });
      writer.begin += (own == run.settings.end() ? "" : field(own->second)) + ",";
    }
    if (run.quantization) {
      const Quantization& q = *run.quantization;
      writer.cost("bits_per_weight", q.bits_per_weight);
      writer.cost("bytes", q.bytes, run.original_linear_bytes());
      writer.cost("model_bytes", run.weight_bytes(), run.model_bytes);
      writer.cost("disk_bytes", run.disk_bytes);
      writer.cost("seconds", q.seconds);
      writer.cost("cpu_seconds", q.cpu_seconds);
      writer.cost("peak_rss_bytes", q.peak_bytes);
      for (const auto& [phase, seconds] : q.phases) writer.cost("seconds_" + phase, seconds);
    }
    for (const Score& score : run.scores) {
      writer.score(score);
      if (std::isnan(score.kl_divergence)) continue;
      Score kl = {score};
      kl.metric = "kl_divergence";
      kl.value = score.kl_divergence;
      kl.standard_error = kl.low = kl.high = kl.baseline = kl.p_value = kl.p_value_holm = kUnknown;
      writer.score(kl);
    }
    for (const Score& part : run.parts) writer.score(part);
  }
  return writer.text;
}

}  // namespace miq::executor::report
