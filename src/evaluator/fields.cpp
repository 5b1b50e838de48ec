// The keys of the evaluator's structs in configuration files.
#include "miq/core/config.h"
#include "miq/evaluator/perplexity.h"

namespace miq::evaluator {

void visit_fields(FieldVisitor& v, PerplexityConfig& config) {
  v.text("corpus", config.corpus, "wikitext2, ptb, c4, or a path to .txt or .jsonl");
  v.text("split", config.split, "of a named corpus");
  v.choice<Protocol>("protocol", config.protocol, {{"gptq", Protocol::gptq}, {"mi", Protocol::mi}},
                     "gptq: full windows only");
  v.integer("seqlen", config.seqlen, 2, 1 << 24, "tokens of a window");
  v.integer("windows", config.windows, 0, INT64_MAX, "the first so many; 0 = all");
}

}  // namespace miq::evaluator
