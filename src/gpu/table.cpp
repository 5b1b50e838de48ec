// Which kernels the program has.
#include "kernels.h"

#ifdef MIQ_GPU
extern "C" const miq_gpu_kernels miq_gpu_compiled;  // compiled.cpp, beside the kernels
static const miq_gpu_kernels* kernels = &miq_gpu_compiled;
#else
static const miq_gpu_kernels* kernels = nullptr;
#endif

extern "C" const miq_gpu_kernels* miq_gpu(void) { return kernels; }
extern "C" void miq_gpu_replace(const miq_gpu_kernels* others) { kernels = others; }
