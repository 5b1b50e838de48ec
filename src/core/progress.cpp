#include "miq/core/progress.h"

#include <unistd.h>

#include <cstdio>

#include "miq/core/log.h"
#include "miq/core/memory.h"
#include "miq/core/text.h"

namespace miq {
namespace {
using Clock = std::chrono::steady_clock;
double seconds_between(Clock::time_point a, Clock::time_point b) { return std::chrono::duration<double>(b - a).count(); }
}  // namespace

Progress::Progress(std::string title, std::int64_t total, std::string unit)
    : title_(std::move(title)),
      unit_(std::move(unit)),
      total_(total),
      terminal_(::isatty(STDERR_FILENO) != 0),
      silent_(!is_verbose()),
      start_(Clock::now()),
      last_print_(start_) {}

Progress::~Progress() {
  if (!silent_ && terminal_) std::fputs("\r\033[K", stderr);
}

void Progress::advance(std::int64_t steps, const std::string& note) {
  done_ += steps;
  note_ = note;
  // A terminal's line lives ten times a second; a log gets one line in 15 seconds, and the last.
  const bool last = done_ >= total_;
  if (last || seconds_between(last_print_, Clock::now()) >= (terminal_ ? 0.1 : 15.0)) print(last);
}

void Progress::print(bool last) {
  last_print_ = Clock::now();
  const double elapsed = seconds_between(start_, last_print_);
  const double rate = elapsed > 0 ? static_cast<double>(done_) / elapsed : 0;
  std::string line = title_ + "  " + std::to_string(done_) + "/" + std::to_string(total_) + " " + unit_ + "s  " +
                     format_fixed(rate, rate < 10 ? 2 : 0) + " " + unit_ + "/s  ";
  line += last ? "in " + format_seconds(elapsed)
               : "ETA " + (rate > 0 ? format_seconds(static_cast<double>(total_ - done_) / rate) : std::string("?"));
  line += "  " + format_bytes(anonymous_rss_bytes());
  if (!note_.empty()) line += "  " + note_;
  if (last || (!terminal_ && !silent_)) {
    if (terminal_ && !silent_) std::fputs("\r\033[K", stderr);
    log_info(line);
  } else if (!silent_) {
    std::fputs(("\r\033[K" + line).c_str(), stderr);
    std::fflush(stderr);
  }
}

}  // namespace miq
