// Scoring of one document; a function for each second column of metric_names.def.
#pragma once

#include "metric_table.h"

namespace miq::evaluator {

/// Error{config} for a document that a metric cannot be had of.
[[noreturn]] void refuse_document(const Scoring& scoring, const std::string& what, const std::string& fix);

void score_acc(const Scoring&, Record&);
void score_acc_norm(const Scoring&, Record&);
void score_acc_bytes(const Scoring&, Record&);
void score_two_choices(const Scoring&, Record&);
void score_ranks(const Scoring&, Record&);
void score_mc2(const Scoring&, Record&);
void score_sentence_pair(const Scoring&, Record&);
void score_bbq(const Scoring&, Record&);
void score_exact_match(const Scoring&, Record&);
void score_token_f1(const Scoring&, Record&);
void score_rouge(const Scoring&, Record&);
void score_bleu(const Scoring&, Record&);
void score_truthfulness(const Scoring&, Record&);
void score_followbench(const Scoring&, Record&);
void score_text_likelihood(const Scoring&, Record&);
void score_token_likelihood(const Scoring&, Record&);

}  // namespace miq::evaluator
