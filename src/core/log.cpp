#include "miq/core/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "miq/core/error.h"

namespace miq {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug: return spdlog::level::debug;
    case LogLevel::info: return spdlog::level::info;
    case LogLevel::warning: return spdlog::level::warn;
    case LogLevel::error: return spdlog::level::err;
  }
  return spdlog::level::err;
}

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto console = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
    console->set_pattern("%^%v%$");
    console->set_level(spdlog::level::info);
    auto created = std::make_shared<spdlog::logger>("miq", console);
    created->set_level(spdlog::level::debug);
    return created;
  }();
  return *instance;
}

int log_rank = 0;

}  // namespace

void set_log_rank(int rank) {
  log_rank = rank;
  if (rank == 0) return;
  logger().sinks().front()->set_pattern("%^" + log_prefix() + "%v%$");
  set_verbosity(0);
}

std::string log_prefix() { return log_rank > 0 ? "[rank " + std::to_string(log_rank) + "] " : ""; }

void set_verbosity(int verbosity) {
  if (log_rank > 0) verbosity = 0;
  const auto level = verbosity <= 0 ? spdlog::level::warn : verbosity == 1 ? spdlog::level::info : spdlog::level::debug;
  logger().sinks().front()->set_level(level);
}

void log_to_file(const std::string& path) {
  auto& sinks = logger().sinks();
  sinks.resize(1);
  try {
    auto file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path, /*truncate=*/false);
    file->set_pattern("%Y-%m-%d %H:%M:%S.%e [%l] %v");
    file->set_level(spdlog::level::debug);
    sinks.push_back(std::move(file));
    logger().flush_on(spdlog::level::info);
  } catch (const spdlog::spdlog_ex& error) {
    throw Error(ErrorKind::io, std::string("cannot open the log file: ") + error.what(), path,
                "choose an --output folder that can be written");
  }
}

void log(LogLevel level, std::string_view message) { logger().log(to_spdlog(level), message); }

bool is_verbose() { return logger().sinks().front()->should_log(spdlog::level::info); }

}  // namespace miq
