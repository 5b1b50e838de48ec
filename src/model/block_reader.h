// The next block's tensors, brought to a GPU by a thread of its own while the block before computes.
#pragma once

#include <c10/core/Event.h>

#include <future>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "miq/core/checkpoint.h"

namespace miq::model {

class BlockReader {
 public:
  /// Tensors by their names, on the device.
  using Tensors = std::map<std::string, at::Tensor>;

  BlockReader(std::shared_ptr<const TensorSource> source, const at::Device& device);
  ~BlockReader();  ///< waits for what is being read
  BlockReader(const BlockReader&) = delete;
  BlockReader& operator=(const BlockReader&) = delete;

  /// Begins to read the tensors of these names into pinned memory, from where they are copied on a stream of the reader's own. What was begun before
  /// and not taken is dropped: there is never more than one block's pinned memory, and one block ahead on the device.
  void begin(std::int64_t layer, std::vector<std::string> names);
  /// The block that was begun: work that is queued on the current stream from now on finds it there. nullopt when it was not begun, or when the
  /// device had no room for it. @throws what reading it threw, for example Error{io}.
  std::optional<Tensors> take(std::int64_t layer);

 private:
  struct Ahead {
    Tensors on_device;
    std::vector<at::Tensor> pinned;          // until the copies are done
    std::optional<c10::Event> copied;        // none: there was no room
  };
  Ahead read(const std::vector<std::string>& names) const;
  void drop();

  std::shared_ptr<const TensorSource> source_;
  at::Device device_;
  c10::Stream stream_;
  std::int64_t layer_ = -1;
  std::future<Ahead> ahead_;
  std::optional<Ahead> last_;  // its pinned memory
};

}  // namespace miq::model
