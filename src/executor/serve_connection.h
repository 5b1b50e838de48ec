// Connections as the server sees them: sockets whose every wait has an end, and the threads that serve them.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace miq::executor {

/// What all connections see of the server.
struct ServerState {
  std::atomic<bool> crowded{false};   ///< connections wait for a thread: slow and idle ones are ended early
  std::atomic<bool> stopping{false};  ///< idle connections end
  std::atomic<bool> aborting{false};  ///< every wait ends
  std::atomic<std::int64_t> requests{0};        ///< at work, from their body to the last byte of the answer
  std::atomic<std::int64_t> body_bytes{0};      ///< of bodies that are held
};

struct ConnectionLimits {
  std::int64_t header_bytes = 64 << 10;
  std::int64_t body_bytes = 4 << 20;
  double header_seconds = 10, body_seconds = 60;    ///< to have come whole
  double stall_seconds = 15, answer_seconds = 420;  ///< a write without progress; all from the request's first byte on
  double idle_seconds = 5;                          ///< between requests
};

/// A connected socket. One thread uses it.
class ClientSocket {
 public:
  enum class Failure { none, closed, timeout, too_large };
  ClientSocket(int socket, const ServerState& state, const ConnectionLimits& limits);
  /// Waits for the first byte of a request; false when the connection is to be closed.
  bool wait_for_request();
  /// The header has come; `chunked`: the body's framing counts as well.
  void begin_body();
  ssize_t read(char* bytes, size_t size);         ///< at least one byte, or -1: see failure()
  ssize_t write(const char* bytes, size_t size);  ///< all, or -1
  bool peer_is_gone() const;                      ///< it closed its side
  Failure failure() const { return failure_; }
  /// Ends the connection so that the peer can still read what was written, even while it is sending for `patience` seconds more.
  void close(double patience = 2);
  int descriptor() const { return socket_; }

 private:
  using Clock = std::chrono::steady_clock;
  bool wait(short events, Clock::time_point deadline) const;
  double read_seconds() const;
  const int socket_;
  const ServerState& state_;
  const ConnectionLimits limits_;
  std::string buffer_;
  size_t used_ = 0;
  bool in_body_ = false;
  std::int64_t budget_ = 0;  // bytes of header or body that may still come
  Clock::time_point phase_began_, request_began_;
  Failure failure_ = Failure::none;
};

/// Threads made when they are needed, up to a number; more connections wait in a queue, and the rest is turned away.
class ConnectionThreads {
 public:
  ConnectionThreads(size_t max_threads, size_t max_waiting, ServerState& state);
  ~ConnectionThreads();
  /// `serve` is run by one of the threads; with `turn_away` = true at once by the caller, when there are too many.
  void enqueue(std::function<void(bool turn_away)> serve);
  void shutdown();  ///< waits for all of them

 private:
  void run();
  const size_t max_threads_, max_waiting_;
  ServerState& state_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void(bool)>> waiting_;
  std::vector<std::thread> threads_;
  size_t idle_ = 0;
  bool done_ = false;
};

}  // namespace miq::executor
