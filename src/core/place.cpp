#include "place.h"

#include <sched.h>
#include <unistd.h>

#include <fstream>

namespace miq {

Place this_place() {
  Place place;
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  std::ifstream in("/proc/sys/kernel/random/boot_id");  // containers of one machine have names of their own
  std::string boot;
  std::getline(in, boot);
  place.machine = host + boot;
  place.cores = boot.empty() ? host : boot;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return place;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) place.cores += " " + std::to_string(core);
  place.core_count = std::max(1, CPU_COUNT(&set));
  return place;
}

}  // namespace miq
