// The one thread that owns the model, and the bounded queue of requests in front of it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "miq/model/language_model.h"
#include "serve_protocol.h"

namespace miq::executor {

/// A request in the queue or at work, and what came of it so far. The engine writes, one other thread reads.
class ServeJob {
 public:
  explicit ServeJob(CompletionRequest request) : request_(std::move(request)) {}
  const CompletionRequest& request() const { return request_; }

  enum class State { waiting, delta, done };
  /// Waits for the next part at most so long; `delta` is set for State::delta. @throws RequestError when the engine failed.
  State next(Delta& delta, std::chrono::milliseconds patience);
  /// Nobody waits for the answer any more: the engine drops it at the next token.
  void cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }
  Usage usage() const;  ///< of a job that is done

 private:
  friend class ServeEngine;
  void put(Delta delta);
  void end();
  void fail(const RequestError& error);
  CompletionRequest request_;
  std::atomic<bool> cancelled_{false};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Delta> deltas_;
  std::optional<RequestError> error_;
  bool done_ = false;
  Usage usage_;
};

struct EngineOptions {
  std::int64_t max_queue = 64;
  std::int64_t batch_tokens = 8192;  ///< that are scored in one go; a longer text goes alone
};

class ServeEngine {
 public:
  /// `model` and `tokenizer` outlive it. The model is used by the engine's thread alone from now on.
  ServeEngine(model::LanguageModel& model, const dataset::Tokenizer& tokenizer, const EngineOptions& options);
  ~ServeEngine();  ///< ends what runs at its next token and drops what waits
  ServeEngine(const ServeEngine&) = delete;
  ServeEngine& operator=(const ServeEngine&) = delete;

  /// @throws RequestError 429 when the queue is full, 503 after refuse_new().
  std::shared_ptr<ServeJob> submit(CompletionRequest request);
  void refuse_new();
  bool refuses() const { return refuses_; }
  std::int64_t jobs() const;  ///< waiting and running

 private:
  using Jobs = std::vector<std::shared_ptr<ServeJob>>;
  struct Unit {  // a prompt of a job
    ServeJob* job;
    size_t prompt;
  };
  void run();
  Jobs take();
  void score(const Jobs& jobs);
  std::vector<evaluator::Score> score_units(const std::vector<Unit>& units);
  void generate(ServeJob& job);
  void generate_choice(ServeJob& job, std::int64_t choice, const std::vector<TokenInfo>& echoed, std::uint64_t seed);
  std::vector<std::int64_t> stop_ids(const CompletionRequest& request) const;
  void leave_if_unwanted(const ServeJob& job) const;

  model::LanguageModel& model_;
  const dataset::Tokenizer& tokenizer_;
  const EngineOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<ServeJob>> queue_;
  Jobs running_;
  std::atomic<bool> refuses_{false}, stops_{false};
  std::thread thread_;
};

}  // namespace miq::executor
