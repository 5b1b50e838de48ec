#include "miq/quantizer/grid.h"

namespace miq::quantizer {

std::int64_t Grid::columns_per_group(std::int64_t in_features) const {
  return granularity == Granularity::group ? std::min(group_size, in_features) : in_features;
}

std::int64_t Grid::num_groups(std::int64_t in_features) const {
  const std::int64_t columns = columns_per_group(in_features);
  return (in_features + columns - 1) / columns;
}

double bits_per_weight(const Grid& grid, std::int64_t out_features, std::int64_t in_features) {
  const auto weights = static_cast<double>(out_features * in_features);
  const auto groups = static_cast<double>(
      grid.granularity == Granularity::tensor ? 1 : out_features * grid.num_groups(in_features));
  return grid.bits + groups * (16 + (grid.symmetric ? 0 : grid.bits)) / weights;
}

}  // namespace miq::quantizer
