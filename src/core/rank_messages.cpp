// What ranks tell each other in words, over the collectives of tensors.
#include <ATen/ATen.h>

#include <sstream>

#include "miq/core/process_group.h"

namespace miq::process_group {

void broadcast(std::string& bytes, int root) {
  if (world_size() == 1) return;
  at::Tensor size = at::scalar_tensor(static_cast<std::int64_t>(bytes.size()), at::kLong);
  broadcast(size, root);
  bytes.resize(static_cast<size_t>(size.item<std::int64_t>()));
  at::Tensor view = at::from_blob(bytes.data(), {static_cast<std::int64_t>(bytes.size())}, at::kByte);
  broadcast(view, root);
}

std::vector<std::string> all_gather(const std::string& bytes) {
  std::vector<std::string> gathered(static_cast<size_t>(world_size()));
  gathered[static_cast<size_t>(rank())] = bytes;
  for (int root = 0; root < world_size(); ++root) broadcast(gathered[static_cast<size_t>(root)], root);
  return gathered;
}

void barrier() {
  at::Tensor one = at::ones({1}, at::kInt);
  all_reduce_sum(one);
}

void check_same(const std::string& name, const std::string& text) {
  const std::vector<std::string> texts = all_gather(text);
  for (size_t other = 1; other < texts.size(); ++other) {
    if (texts[other] == texts[0]) continue;
    std::istringstream a(texts[0]), b(texts[other]);
    std::string line_a, line_b;
    bool more_a = true, more_b = true;
    do {
      more_a = static_cast<bool>(std::getline(a, line_a));
      more_b = static_cast<bool>(std::getline(b, line_b));
    } while (more_a && more_b && line_a == line_b);
    const auto shown = [](bool there, const std::string& line) {
      if (!there) return std::string("nothing");
      const size_t begin = line.find_first_not_of(' ');
      return "'" + line.substr(begin == std::string::npos ? 0 : begin, 120) + "'";
    };
    throw Error(ErrorKind::config, "rank " + std::to_string(other) + " has another " + name + " than rank 0: " + shown(more_b, line_b) + ", not " + shown(more_a, line_a), "",
                "start all ranks with the same program, arguments and files");
  }
}

std::pair<std::int64_t, std::int64_t> own_part(std::int64_t count) {
  const std::int64_t size = world_size(), self = rank();
  return {count * self / size, count * (self + 1) / size};
}

}  // namespace miq::process_group
