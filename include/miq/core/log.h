// Logging: to stderr, and to the run directory's miq.log once there is one. stdout stays free for
// results.
#pragma once

#include <string>
#include <string_view>

namespace miq {

enum class LogLevel { debug, info, warning, error };

/// What goes to stderr: 0 = warnings and errors (-q), 1 = info, 2 = debug (-v). The log file
/// always gets debug.
void set_verbosity(int verbosity);

/// Of several processes this is the `rank`-th: above 0 only warnings and errors go to stderr, behind log_prefix(), whatever the verbosity.
void set_log_rank(int rank);

/// "[rank 1] " on ranks above 0, else empty: what lines on stderr begin with.
std::string log_prefix();

/// Also writes to the end of `path` from now on. @throws Error{io} when it cannot be opened.
void log_to_file(const std::string& path);

void log(LogLevel level, std::string_view message);
inline void log_debug(std::string_view message) { log(LogLevel::debug, message); }
inline void log_info(std::string_view message) { log(LogLevel::info, message); }
inline void log_warning(std::string_view message) { log(LogLevel::warning, message); }

/// Whether info lines reach stderr (progress output follows it).
bool is_verbose();

}  // namespace miq
