#include "miq/core/config.h"
#include "miq/dataset/calibration.h"

namespace miq::dataset {

void visit_fields(FieldVisitor& v, CalibrationConfig& config) {
  v.text("dataset", config.dataset, "wikitext2, ptb, c4, ceval, cmmlu, or a path to .txt or .jsonl");
  v.text("split", config.split, "train, validation or test, of a named corpus");
  v.integer("samples", config.samples, 1, 1 << 24, "windows");
  v.integer("seqlen", config.seqlen, 2, 1 << 24, "tokens of a window");
  v.choice<Sampling>("sampling", config.sampling, {{"random", Sampling::random}, {"consecutive", Sampling::consecutive}},
                     "random: as the GPTQ reference draws");
  v.integer("seed", config.seed, 0, INT64_MAX, "of Python's generator");
  if (!v.writes() || is_examination(config.dataset)) {
    v.text("subjects", config.subjects, "ceval, cmmlu: all, a category, or subjects, each with its own number if wanted: \"arts=12, law\"");
    v.integer("per_subject", config.per_subject, 1, 1 << 24, "ceval, cmmlu: questions of a subject");
    v.flag("shuffle", config.shuffle, "ceval, cmmlu: questions drawn by the seed instead of the first ones");
  }
  v.text("ids", config.ids, "a safetensors file with `ids` [samples, seqlen] int64 instead of all the above");
}

}  // namespace miq::dataset
