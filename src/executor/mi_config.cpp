#include "miq/executor/job_config.h"
namespace miq::executor {
bool is_mi_optimize(const ConfigSource&) { return false; }
YAML::Node translate_mi_optimize(const ConfigSource& s) { return s.root(); }
}
