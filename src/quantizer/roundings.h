#pragma once

#include "miq/quantizer/linear_problem.h"

namespace miq::quantizer {

#define MIQ_ROUNDING(name, needs_hessian) \
  QuantizedLinear round_##name(const LinearProblem&, const Grid&, const Range&, const Rounding&);
#include "roundings.def"
#undef MIQ_ROUNDING

}  // namespace miq::quantizer
