#include "spread.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <mutex>
#include <nlohmann/json.hpp>

#include "miq/core/digest.h"
#include "miq/core/process_group.h"

namespace miq::evaluator {
namespace {

using dataset::TaskDocument;
using dataset::TaskRequest;

// Bytes that both texts begin with, whole characters.
size_t common_prefix(const std::string& a, const std::string& b) {
  const size_t most = std::min(a.size(), b.size());
  auto length = static_cast<size_t>(std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(most), b.begin()).first - a.begin());
  while (length > 0 && length < b.size() && (static_cast<unsigned char>(b[length]) & 0xC0) == 0x80) --length;
  return length;
}

struct Work {
  double tokens = 0;  // of its own
  double shared = 0;  // that its first text has in common with the document before
};

Work work_of(const TaskDocument* before, const TaskDocument& document, const dataset::Tokenizer& tokenizer, std::int64_t new_tokens) {
  Work work;
  std::string last = before == nullptr || before->requests.empty() ? "" : before->requests.back().context + before->requests.back().continuation;
  double bytes = 0;
  size_t shared_bytes = 0;
  for (const TaskRequest& request : document.requests) {
    std::string text = request.context + request.continuation;
    const size_t shared = common_prefix(last, text);
    if (&request == &document.requests.front()) shared_bytes = shared;
    work.tokens += static_cast<double>(tokenizer.encode(std::string_view(text).substr(shared), /*special=*/false).size() + 1);
    bytes += static_cast<double>(text.size() - shared);
    last = std::move(text);
  }
  work.shared = static_cast<double>(shared_bytes) * work.tokens / std::max(bytes, 1.0);
  work.tokens += static_cast<double>(new_tokens);
  return work;
}

}  // namespace

std::vector<size_t> spread(const std::vector<const TaskDocument*>& documents, const dataset::Tokenizer& tokenizer, std::int64_t new_tokens, int parts) {
  std::vector<Work> works(documents.size());
  std::mutex mutex;  // an exception may not leave a thread of the pool
  std::exception_ptr failure;
  at::parallel_for(0, static_cast<std::int64_t>(documents.size()), 16, [&](std::int64_t begin, std::int64_t end) {
    try {
      for (auto d = static_cast<size_t>(begin); d < static_cast<size_t>(end); ++d) works[d] = work_of(d == 0 ? nullptr : documents[d - 1], *documents[d], tokenizer, new_tokens);
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
  std::vector<double> before = {0};
  for (const Work& work : works) before.push_back(before.back() + work.tokens);
  std::vector<size_t> cuts = {0};
  for (int part = 1; part < parts; ++part) {
    const double goal = before.back() * part / parts;
    size_t best = cuts.back();
    double least = INFINITY;
    for (size_t d = cuts.back(); d <= documents.size(); ++d) {
      const double cost = std::abs(before[d] - goal) + (d > 0 && d < documents.size() ? works[d].shared : 0);
      if (cost >= least) continue;
      least = cost;
      best = d;
    }
    cuts.push_back(best);
  }
  cuts.push_back(documents.size());
  return cuts;
}

void check_same_documents(const std::string& task, const std::vector<const TaskDocument*>& documents) {
  if (process_group::world_size() == 1) return;
  std::string lines;
  for (const TaskDocument* const document : documents) {
    std::string asked;
    for (const TaskRequest& request : document->requests) asked += request.context + '\0' + request.continuation + '\0';
    lines += document_digest(*document) + ' ' + sha256(asked) + '\n';
  }
  process_group::check_same("set of documents of the task " + task, std::to_string(documents.size()) + " documents, sha256 " + sha256(lines));
}

std::vector<Answer> gather_answers(const std::vector<Answer>& own) {
  using Json = nlohmann::json;
  Json list = Json::array();
  for (const Answer& answer : own) {
    // As their bytes: JSON's formats have no minus infinity and no NaN of their own.
    const auto* const bytes = reinterpret_cast<const std::uint8_t*>(answer.loglikelihoods.data());
    list.push_back({Json::binary({bytes, bytes + answer.loglikelihoods.size() * sizeof(double)}), answer.texts, answer.tokens});
  }
  const std::vector<std::uint8_t> packed = Json::to_msgpack(list);
  std::vector<Answer> answers;
  for (const std::string& part : process_group::all_gather(std::string(packed.begin(), packed.end())))
    for (const Json& entry : Json::from_msgpack(part)) {
      Answer answer;
      const auto& bytes = entry.at(0).get_binary();
      answer.loglikelihoods.resize(bytes.size() / sizeof(double));
      std::copy(bytes.begin(), bytes.end(), reinterpret_cast<std::uint8_t*>(answer.loglikelihoods.data()));
      answer.texts = entry.at(1).get<std::vector<std::string>>();
      answer.tokens = entry.at(2).get<std::int64_t>();
      answers.push_back(std::move(answer));
    }
  return answers;
}

}  // namespace miq::evaluator
