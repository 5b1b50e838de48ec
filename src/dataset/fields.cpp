#include "miq/core/config.h"
#include "miq/dataset/calibration.h"

namespace miq::dataset {

void visit_fields(FieldVisitor& v, CalibrationConfig& config) {
  v.text("dataset", config.dataset, "wikitext2, ptb, c4, a path to .txt or .jsonl, or tasks (miq list tasks, a .yaml of your own): \"arc_easy=64, boss/QuestionAnswering/advqa\"");
  v.text("split", config.split, "train, validation or test, of a named corpus; a split of the task");
  v.integer("samples", config.samples, 1, 1 << 24, "windows; documents of a task or of the subject that its name carries");
  v.integer("seqlen", config.seqlen, 2, 1 << 24, "tokens of a window");
  v.choice<Sampling>("sampling", config.sampling, {{"random", Sampling::random}, {"consecutive", Sampling::consecutive}},
                     "random: as the GPTQ reference draws");
  v.integer("seed", config.seed, 0, INT64_MAX, "of Python's generator");
  if (!v.writes() || is_task_calibration(config.dataset)) {
    v.text("subjects", config.subjects, "tasks with subjects: all, a category, or subjects, each with its own number if wanted: \"arts=12, law\"");
    v.integer("per_subject", config.per_subject, 1, 1 << 24, "tasks with subjects: documents of each");
    v.flag("shuffle", config.shuffle, "tasks: documents drawn by the seed instead of the first ones");
    v.integer("shots", config.shots, 0, 1000, "tasks: documents with answers before each, as the task is asked");
    v.flag("pack", config.pack, "tasks: documents joined to windows of seqlen, instead of a sample each");
  }
  v.text("ids", config.ids, "a safetensors file with `ids` [samples, seqlen] int64 instead of all the above");
}

}  // namespace miq::dataset
