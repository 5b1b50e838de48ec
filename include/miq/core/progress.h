// Progress on stderr: a live line with rate, ETA and memory on a terminal, sparse plain lines
// elsewhere; silent under -q.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace miq {

class Progress {
 public:
  /// `title` such as "quantizing"; `total` steps of `unit` ("block", "window").
  Progress(std::string title, std::int64_t total, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `steps` more are done; `note` is shown behind the figures.
  void advance(std::int64_t steps = 1, const std::string& note = "");

 private:
  void print(bool last);
  std::string title_, unit_, note_;
  std::int64_t total_, done_ = 0;
  bool terminal_, silent_;
  std::chrono::steady_clock::time_point start_, last_print_;
};

}  // namespace miq
