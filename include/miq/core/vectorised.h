// Plain loops compiled for several instruction sets; the loader picks the best the CPU has.
#pragma once

/// On functions whose whole body should be compiled for each level; what they call must be inlined. The
/// arithmetic is the same in all but for fused multiply-adds. The address sanitizer does without: it is
/// not ready when the loader picks.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define MIQ_VECTORISED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MIQ_VECTORISED
#endif
