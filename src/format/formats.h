// The formats of formats.def.
#pragma once

#include "miq/format/format.h"

namespace miq::format {

#define MIQ_FORMAT(identifier) extern const Format identifier##_format;
#include "formats.def"
#undef MIQ_FORMAT

}  // namespace miq::format
