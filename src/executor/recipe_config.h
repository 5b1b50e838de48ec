#pragma once

#include "miq/core/config.h"
#include "miq/quantizer/recipe.h"

namespace miq::executor {

/// The `recipe` mapping (null: all defaults), all its keys checked.
quantizer::Recipe read_recipe(ConfigReader* reader);

/// The resolved recipe under the key `recipe`.
void dump_recipe(ConfigDumper& dumper, quantizer::Recipe recipe);

}  // namespace miq::executor
