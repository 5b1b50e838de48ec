#include "serve_engine.h"

#include <c10/core/InferenceMode.h>

#include <cmath>
#include <random>

#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/model/generate.h"
#include "serve_text.h"

namespace miq::executor {
namespace {

RequestError as_request_error(const std::exception& error) {
  if (const auto* const ready = dynamic_cast<const RequestError*>(&error)) return *ready;
  std::string text = error.what();
  if (const auto* const libtorch = dynamic_cast<const c10::Error*>(&error)) text = libtorch->what_without_backtrace();
  if (const auto* const ours = dynamic_cast<const Error*>(&error)) text = ours->message();
  if (dynamic_cast<const std::bad_alloc*>(&error)) text = "out of memory";
  text = "the model failed: " + text.substr(0, text.find('\n'));
  log_warning(text);
  return RequestError(500, text);
}

void check_number(double value) {
  if (std::isnan(value)) throw Error(ErrorKind::numeric, "its logits are not numbers", "", "check the checkpoint with miq verify");
}

std::uint64_t random_seed() {
  std::random_device device;
  return static_cast<std::uint64_t>(device()) << 32 | device();
}

bool holds(const std::vector<std::int64_t>& ids, std::int64_t id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); }

// The tokens of a prompt: where each begins in the prompt's text, and what the model thought of it.
std::vector<TokenInfo> prompt_tokens(const dataset::Tokenizer& tokenizer, const Prompt& prompt, const evaluator::Score& score) {
  const std::int64_t length = count_code_points(prompt.text);
  IncrementalDecoder decoder(tokenizer, {}, /*skip_special=*/false);
  std::vector<TokenInfo> tokens(prompt.ids.size());
  std::int64_t offset = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i].id = prompt.ids[i];
    tokens[i].offset = std::min(offset, length);
    if (static_cast<std::int64_t>(i) >= prompt.unseen) offset += count_code_points(decoder.append(prompt.ids[i]));
    if (i == 0) continue;
    tokens[i].logprob = score.token_logprobs[i - 1];
    tokens[i].top = score.top[i - 1];
    check_number(*tokens[i].logprob);
  }
  return tokens;
}

TokenInfo generated_token(std::int64_t id, const at::Tensor& logits_V, std::int64_t alternatives) {
  TokenInfo token;
  token.id = id;
  check_number(logits_V[id].item<double>());
  if (alternatives < 0) return token;
  const at::Tensor logprobs_V = logits_V.to(at::kCPU, at::kFloat).log_softmax(0);
  token.logprob = logprobs_V[id].item<float>();
  check_number(*token.logprob);
  if (alternatives == 0) return token;
  const auto [values, ids] = logprobs_V.topk(std::min(alternatives, logprobs_V.size(0)));
  for (std::int64_t i = 0; i < values.size(0); ++i) token.top.push_back({ids[i].item<std::int64_t>(), values[i].item<float>()});
  return token;
}

// A choice in parts: text as it becomes certain, with the tokens that begin in it and none behind a stop string.
class ChoiceParts {
 public:
  ChoiceParts(const CompletionRequest& request, const dataset::Tokenizer& tokenizer, std::int64_t choice)
      : request_(request), choice_(choice), text_(tokenizer, prompt().ids, request.stops) {}
  const Prompt& prompt() const { return request_.prompts[static_cast<size_t>(choice_ / request_.n)]; }
  Delta echo(std::vector<TokenInfo> tokens) {
    offset_ = count_code_points(prompt().text);
    return {choice_, prompt().text, std::move(tokens), ""};
  }
  /// A further token; `ends`: one that ends the text and is no part of it. True when the text ends with it.
  bool add(TokenInfo token, bool ends) {
    const size_t begin = text_.decoded().size();
    const std::int64_t id = token.id;
    token.offset = offset_;
    pending_.push_back({begin, std::move(token)});
    if (ends) return stopped_ = true;
    stopped_ = text_.append(id);
    if (!stopped_) offset_ += count_code_points(text_.decoded().substr(begin));
    return stopped_;
  }
  /// What is certain by now. The last part: all that is left, and why it ended.
  Delta part(bool last) {
    Delta delta;
    delta.choice = choice_;
    if (last) {
      if (text_.finish()) stopped_ = true;
      delta.finish = stopped_ ? "stop" : "length";
    }
    delta.text = text_.take();
    const size_t end = last && !text_.stopped() ? std::string::npos : text_.taken_bytes();
    size_t count = 0;
    for (; count < pending_.size() && pending_[count].begin < end; ++count)
      if (request_.logprobs >= 0) delta.tokens.push_back(std::move(pending_[count].token));
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(count));
    return delta;
  }

 private:
  struct Pending {
    size_t begin;  // in bytes of the completion
    TokenInfo token;
  };
  const CompletionRequest& request_;
  std::int64_t choice_, offset_ = 0;
  CompletionText text_;
  std::vector<Pending> pending_;
  bool stopped_ = false;
};

}  // namespace

ServeJob::State ServeJob::next(Delta& delta, std::chrono::milliseconds patience) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, patience, [&] { return done_ || !deltas_.empty(); });
  if (!deltas_.empty()) {
    delta = std::move(deltas_.front());
    deltas_.pop_front();
    return State::delta;
  }
  if (!done_) return State::waiting;
  if (error_) throw RequestError(*error_);
  return State::done;
}

Usage ServeJob::usage() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return usage_;
}

void ServeJob::put(Delta delta) {
  const std::lock_guard<std::mutex> lock(mutex_);
  deltas_.push_back(std::move(delta));
  changed_.notify_all();
}

void ServeJob::end() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const Prompt& prompt : request_.prompts) usage_.prompt_tokens += static_cast<std::int64_t>(prompt.ids.size());
  done_ = true;
  changed_.notify_all();
}

void ServeJob::fail(const RequestError& error) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (done_) return;
  error_ = error;
  done_ = true;
  changed_.notify_all();
}

ServeEngine::ServeEngine(model::LanguageModel& model, const dataset::Tokenizer& tokenizer, const EngineOptions& options)
    : model_(model), tokenizer_(tokenizer), options_(options), thread_([this] { run(); }) {}

ServeEngine::~ServeEngine() {
  refuses_ = stops_ = true;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  thread_.join();
  for (const auto& job : queue_) job->fail(RequestError(503, "the server is shutting down"));
}

std::shared_ptr<ServeJob> ServeEngine::submit(CompletionRequest request) {
  auto job = std::make_shared<ServeJob>(std::move(request));
  const std::lock_guard<std::mutex> lock(mutex_);
  if (refuses_) throw RequestError(503, "the server is shutting down", "", "shutting_down");
  queue_.erase(std::remove_if(queue_.begin(), queue_.end(), [](const auto& waiting) { return waiting->cancelled(); }), queue_.end());
  if (static_cast<std::int64_t>(queue_.size() + running_.size()) >= options_.max_queue)
    throw RequestError(429, "the server is busy: " + std::to_string(options_.max_queue) + " requests wait already; try again later", "", "queue_full");
  queue_.push_back(job);
  wake_.notify_all();
  return job;
}

void ServeEngine::refuse_new() {
  const std::lock_guard<std::mutex> lock(mutex_);
  refuses_ = true;
}

std::int64_t ServeEngine::jobs() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<std::int64_t>(queue_.size() + running_.size());
}

// The job whose turn it is; one to be scored takes others that wait to be scored with it.
ServeEngine::Jobs ServeEngine::take() {
  std::unique_lock<std::mutex> lock(mutex_);
  running_.clear();
  wake_.wait(lock, [&] { return stops_ || !queue_.empty(); });
  if (stops_) return {};
  const bool scoring = queue_.front()->request().is_scoring();
  std::int64_t tokens = 0;
  for (auto job = queue_.begin(); job != queue_.end() && (running_.empty() || scoring);) {
    std::int64_t length = 0;
    for (const Prompt& prompt : (*job)->request().prompts) length += static_cast<std::int64_t>(prompt.ids.size());
    const bool fits = running_.empty() || ((*job)->request().is_scoring() && tokens + length <= options_.batch_tokens);
    if (fits) {
      tokens += length;
      running_.push_back(*job);
      job = queue_.erase(job);
    } else {
      ++job;
    }
  }
  return running_;
}

void ServeEngine::run() {
  const c10::InferenceMode inference;
  for (Jobs jobs = take(); !jobs.empty(); jobs = take()) {
    try {
      if (jobs[0]->request().is_scoring())
        score(jobs);
      else
        generate(*jobs[0]);
    } catch (const std::exception& error) {
      const RequestError answer = as_request_error(error);
      for (const auto& job : jobs) job->fail(answer);
    }
  }
}

void ServeEngine::leave_if_unwanted(const ServeJob& job) const {
  if (stops_) throw RequestError(503, "the server is shutting down", "", "shutting_down");
  if (job.cancelled()) throw RequestError(499, "the client went away");
}

std::vector<std::int64_t> ServeEngine::stop_ids(const CompletionRequest& request) const {
  std::vector<std::int64_t> ids = request.stop_ids;
  const auto& eos = model_.architecture().eos_token_ids;
  if (!request.ignore_eos) ids.insert(ids.end(), eos.begin(), eos.end());
  return ids;
}

// Every token of each prompt but the first, and, where one token is to be generated, a last one: whatever it is, the likeliest
// in its place are what is asked for.
std::vector<evaluator::Score> ServeEngine::score_units(const std::vector<Unit>& units) {
  std::vector<evaluator::ScoreRequest> requests;
  std::vector<bool> asked;
  evaluator::ScoreOptions options;
  options.token_logprobs = true;
  for (const Unit& unit : units) {
    const CompletionRequest& request = unit.job->request();
    evaluator::ScoreRequest one;
    one.tokens = request.prompts[unit.prompt].ids;
    if (request.is_scoring() && request.max_tokens == 1) one.tokens.push_back(0);
    one.scored = static_cast<std::int64_t>(one.tokens.size()) - 1;
    options.top = std::max({options.top, request.logprobs, std::int64_t{1}});
    asked.push_back(one.scored > 0);
    if (one.scored > 0) requests.push_back(std::move(one));
  }
  options.top = std::min(options.top, model_.architecture().vocab_size);
  std::vector<evaluator::Score> scores, all;
  if (!requests.empty()) scores = evaluator::loglikelihoods(model_, requests, options);
  size_t next = 0;
  for (const bool was_asked : asked) all.push_back(was_asked ? std::move(scores[next++]) : evaluator::Score{});
  return all;
}

void ServeEngine::score(const Jobs& jobs) {
  std::vector<Unit> units;
  for (const auto& job : jobs)
    for (size_t p = 0; p < job->request().prompts.size(); ++p) units.push_back({job.get(), p});
  for (size_t begin = 0, end = 0; begin < units.size(); begin = end) {
    std::vector<Unit> chunk;
    for (std::int64_t tokens = 0; end < units.size(); ++end) {
      const Unit& unit = units[end];
      if (unit.job->cancelled()) continue;
      tokens += static_cast<std::int64_t>(unit.job->request().prompts[unit.prompt].ids.size());
      if (!chunk.empty() && tokens > options_.batch_tokens) break;
      chunk.push_back(unit);
    }
    if (stops_) throw RequestError(503, "the server is shutting down", "", "shutting_down");
    const std::vector<evaluator::Score> scores = score_units(chunk);
    for (size_t u = 0; u < chunk.size(); ++u) {
      ServeJob& job = *chunk[u].job;
      const CompletionRequest& request = job.request();
      try {
        const Prompt& prompt = request.prompts[chunk[u].prompt];
        const std::vector<TokenInfo> echoed = prompt_tokens(tokenizer_, prompt, scores[u]);
        for (std::int64_t i = 0; i < request.n; ++i) {
          ChoiceParts parts(request, tokenizer_, static_cast<std::int64_t>(chunk[u].prompt) * request.n + i);
          job.put(parts.echo(echoed));
          if (request.max_tokens == 1) {
            TokenInfo next;
            next.top = scores[u].top.back();
            next.id = next.top.at(0).id;
            next.logprob = next.top[0].logprob;
            check_number(*next.logprob);
            parts.add(next, holds(stop_ids(request), next.id));
            ++job.usage_.completion_tokens;
          }
          job.put(parts.part(/*last=*/true));
        }
      } catch (const std::exception& error) {
        job.fail(as_request_error(error));
        job.cancel();
      }
    }
  }
  for (const auto& job : jobs)
    if (job->cancelled())
      job->fail(RequestError(499, "the client went away"));
    else
      job->end();
}

void ServeEngine::generate(ServeJob& job) {
  const CompletionRequest& request = job.request();
  const std::uint64_t seed = request.seed ? *request.seed : random_seed();
  std::vector<TokenInfo> echoed;
  for (std::int64_t choice = 0; choice < request.choices(); ++choice) {
    leave_if_unwanted(job);
    const auto prompt = static_cast<size_t>(choice / request.n);
    if (request.scores_prompts() && choice % request.n == 0)
      echoed = prompt_tokens(tokenizer_, request.prompts[prompt], score_units({Unit{&job, prompt}})[0]);
    generate_choice(job, choice, echoed, seed + static_cast<std::uint64_t>(choice));
  }
  job.end();
}

void ServeEngine::generate_choice(ServeJob& job, std::int64_t choice, const std::vector<TokenInfo>& echoed, std::uint64_t seed) {
  const CompletionRequest& request = job.request();
  ChoiceParts parts(request, tokenizer_, choice);
  if (request.echo) job.put(parts.echo(echoed));
  const std::vector<std::int64_t> stops = stop_ids(request);
  model::GenerateOptions options;
  options.max_new_tokens = request.max_tokens;
  options.temperature = request.temperature;
  options.top_p = request.top_p;
  options.top_k = request.top_k;
  options.seed = seed;
  options.stop_at_eos = false;
  options.stop_ids = stops;
  options.on_step = [&](std::int64_t id, const at::Tensor& logits_V) {
    leave_if_unwanted(job);
    ++job.usage_.completion_tokens;
    if (parts.add(generated_token(id, logits_V, request.logprobs), holds(stops, id))) return true;
    Delta delta = parts.part(/*last=*/false);
    if (!delta.text.empty() || !delta.tokens.empty()) job.put(std::move(delta));
    return false;
  };
  if (request.max_tokens > 0) model::generate(model_, parts.prompt().ids, options);
  job.put(parts.part(/*last=*/true));
}

}  // namespace miq::executor
