#include "rank_checks.h"

#include <torch/version.h>

#include <sstream>

#include "miq/core/digest.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/process_group.h"
#include "miq/core/text.h"

namespace miq::executor {

std::string digest_of(const at::Tensor& tensor) {
  const at::Tensor bytes = tensor.cpu().contiguous();
  return sha256({static_cast<const char*>(bytes.const_data_ptr()), static_cast<size_t>(bytes.nbytes())});
}

namespace {

// Names, types and shapes of all tensors, and the values of one that every training changes and that is read in no time.
std::string fingerprint(const model::LanguageModel& model) {
  std::ostringstream lines;
  for (const TensorSpec& spec : model.source().specs()) {
    lines << spec.name << ' ' << dtype_name(spec.dtype);
    for (const std::int64_t size : spec.shape) lines << ' ' << size;
    lines << '\n';
  }
  lines << "values of the final norm: sha256 " << digest_of(model.final_norm_H()) << '\n' << "device type: " << c10::DeviceTypeName(model.device().type()) << '\n';
  return lines.str();
}

}  // namespace

void check_ranks(const JobConfig& config, const model::LanguageModel& model, const std::vector<at::Tensor>& streams, const std::vector<at::Tensor>& calibration_ids) {
  if (process_group::world_size() == 1) return;
  if (config.recipe.distillation.steps > 0)
    throw Error(ErrorKind::unsupported, "distillation trains a block on all samples, of which each rank has a part", "recipe.distill", "run it as one process, or leave distill out");
  process_group::check_same("version", "miq " MIQ_VERSION ", LibTorch " TORCH_VERSION);
  JobConfig settings = config;
  settings.model.path = settings.output = settings.data_dir = settings.evaluation.against = "";
  settings.device = "";  // a place too; its type is in the fingerprint
  process_group::check_same("configuration", to_text(to_json(settings)));
  process_group::check_same("model", fingerprint(model));
  for (size_t i = 0; i < streams.size(); ++i)
    process_group::check_same("text of evaluation.perplexity[" + std::to_string(i) + "]", std::to_string(streams[i].numel()) + " tokens, sha256 " + digest_of(streams[i]));
  for (size_t i = 0; i < calibration_ids.size(); ++i)
    process_group::check_same("calibration samples, batch " + std::to_string(i), std::to_string(calibration_ids[i].size(0)) + " samples, sha256 " + digest_of(calibration_ids[i]));
}

}  // namespace miq::executor
