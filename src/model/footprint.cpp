#include "miq/model/footprint.h"

#include <algorithm>

namespace miq::model {

std::int64_t mlp_width(const Architecture& a) { return std::max(a.intermediate_size, a.experts.per_token * a.experts.intermediate_size); }

std::int64_t activation_bytes_per_token(const Architecture& a) { return (3 * mlp_width(a) + 6 * a.hidden_size) * 4; }

}  // namespace miq::model
