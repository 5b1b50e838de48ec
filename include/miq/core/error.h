// Errors: what is wrong, where, and how to mend it. Thrown anywhere, caught once in main().
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace miq {

/// The class of an error; its value is the program's exit status.
enum class ErrorKind {
  config = 2,        ///< the command line or a configuration file
  unsupported = 3,   ///< a valid wish that this build or this combination cannot fulfil
  io = 4,            ///< a file that is missing, unreadable, malformed, or a full disk
  numeric = 5,       ///< not finite, not positive definite
  internal = 70,     ///< a bug in miq
};

/// An error with its three parts. `where` and `fix` may be empty.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string what, std::string where = "", std::string fix = "");

  ErrorKind kind() const { return kind_; }
  int exit_status() const { return static_cast<int>(kind_); }
  const std::string& message() const { return message_; }  ///< the first part alone
  const std::string& where() const { return where_; }
  const std::string& fix() const { return fix_; }

 private:
  ErrorKind kind_;
  std::string message_, where_, fix_;
};

/// The name used in messages: "config", "unsupported", "io", "numeric", "internal".
const char* name(ErrorKind kind);

/// The candidate nearest to `word` by edit distance, or "" when none is near enough to be meant.
std::string nearest_name(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace miq
