#include "serve_connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace miq::executor {
namespace {

constexpr int kTick = 50;  // milliseconds between looks at the server's state

std::chrono::steady_clock::duration seconds(double value) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(value));
}

}  // namespace

ClientSocket::ClientSocket(int socket, const ServerState& state, const ConnectionLimits& limits) : socket_(socket), state_(state), limits_(limits) {
  phase_began_ = request_began_ = Clock::now();
}

// Until one of `events` or the deadline, in short steps.
bool ClientSocket::wait(short events, Clock::time_point deadline) const {
  while (!state_.aborting) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd one = {socket_, events, 0};
    const int ready = ::poll(&one, 1, static_cast<int>(std::min<long>(left, kTick)));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
    if ((events & POLLIN) != 0 && ready == 0 && Clock::now() - phase_began_ > seconds(read_seconds())) return false;
  }
  return false;
}

double ClientSocket::read_seconds() const {
  const double usual = in_body_ ? limits_.body_seconds : limits_.header_seconds;
  return state_.crowded ? std::min(usual, in_body_ ? 5.0 : 1.0) : usual;
}

bool ClientSocket::wait_for_request() {
  const Clock::time_point began = Clock::now();
  phase_began_ = began;
  in_body_ = false;
  failure_ = Failure::none;
  while (used_ == buffer_.size()) {
    if (state_.stopping || state_.aborting) return false;
    const double patience = state_.crowded ? 0.2 : limits_.idle_seconds;
    if (Clock::now() - began > seconds(patience)) return false;
    if (!wait(POLLIN, Clock::now() + std::chrono::milliseconds(kTick))) continue;
    char bytes[4096];
    const ssize_t count = ::recv(socket_, bytes, sizeof bytes, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (count <= 0) return false;
    buffer_.assign(bytes, static_cast<size_t>(count));
    used_ = 0;
  }
  phase_began_ = request_began_ = Clock::now();
  budget_ = limits_.header_bytes;
  return true;
}

void ClientSocket::begin_body() {
  in_body_ = true;
  phase_began_ = Clock::now();
  budget_ = 8 * limits_.body_bytes + limits_.header_bytes;  // chunks of one byte carry five of framing
}

ssize_t ClientSocket::read(char* bytes, size_t size) {
  if (budget_ <= 0) {
    failure_ = Failure::too_large;
    return -1;
  }
  while (used_ == buffer_.size()) {
    if (!wait(POLLIN, phase_began_ + seconds(read_seconds()))) {
      failure_ = Failure::timeout;
      return -1;
    }
    buffer_.resize(16384);
    const ssize_t count = ::recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    const int error = errno;
    buffer_.resize(count > 0 ? static_cast<size_t>(count) : 0);
    used_ = 0;
    if (count > 0 || (count < 0 && (error == EAGAIN || error == EINTR))) continue;
    failure_ = Failure::closed;
    return -1;
  }
  const size_t count = std::min({size, buffer_.size() - used_, static_cast<size_t>(budget_)});
  std::copy_n(buffer_.data() + used_, count, bytes);
  used_ += count;
  budget_ -= static_cast<std::int64_t>(count);
  return static_cast<ssize_t>(count);
}

ssize_t ClientSocket::write(const char* bytes, size_t size) {
  for (size_t at = 0; at < size;) {
    const ssize_t count = ::send(socket_, bytes + at, size - at, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count > 0) {
      at += static_cast<size_t>(count);
      continue;
    }
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno != EAGAIN) return -1;
    const Clock::time_point now = Clock::now();
    if (!wait(POLLOUT, std::min(now + seconds(limits_.stall_seconds), request_began_ + seconds(limits_.answer_seconds)))) return -1;
  }
  return static_cast<ssize_t>(size);
}

bool ClientSocket::peer_is_gone() const {
  if (state_.aborting) return true;
  pollfd one = {socket_, POLLRDHUP, 0};
  return ::poll(&one, 1, 0) > 0 && (one.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

// A socket that is closed while bytes lie unread is reset, and the peer loses the answer: so they are read and dropped.
void ClientSocket::close(double patience) {
  ::shutdown(socket_, SHUT_WR);
  const Clock::time_point end = Clock::now() + seconds(state_.crowded || state_.stopping ? std::min(patience, 0.2) : patience);
  phase_began_ = Clock::now();
  std::string dropped(64 << 10, '\0');
  while (Clock::now() < end && wait(POLLIN, end)) {
    const ssize_t count = ::recv(socket_, dropped.data(), dropped.size(), MSG_DONTWAIT);
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) break;
  }
  ::close(socket_);
}

ConnectionThreads::ConnectionThreads(size_t max_threads, size_t max_waiting, ServerState& state)
    : max_threads_(max_threads), max_waiting_(max_waiting), state_(state) {}

ConnectionThreads::~ConnectionThreads() { shutdown(); }

void ConnectionThreads::enqueue(std::function<void(bool)> serve) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (waiting_.size() < max_waiting_) {
      waiting_.push_back(std::move(serve));
      if (idle_ < waiting_.size() && threads_.size() < max_threads_) try {
          threads_.emplace_back([this] { run(); });
        } catch (const std::system_error&) {  // no more threads to be had: those that are do
          if (threads_.empty()) throw;
        }
      state_.crowded = waiting_.size() > idle_ && threads_.size() == max_threads_;
      wake_.notify_one();
      return;
    }
  }
  serve(/*turn_away=*/true);
}

void ConnectionThreads::run() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    ++idle_;
    wake_.wait(lock, [&] { return done_ || !waiting_.empty(); });
    --idle_;
    if (waiting_.empty()) return;
    const auto serve = std::move(waiting_.front());
    waiting_.pop_front();
    if (waiting_.empty()) state_.crowded = false;
    lock.unlock();
    serve(/*turn_away=*/false);
    lock.lock();
  }
}

void ConnectionThreads::shutdown() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    done_ = true;
    wake_.notify_all();
  }
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
}

}  // namespace miq::executor
