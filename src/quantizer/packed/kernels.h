// The panel kernels by instruction set.
#pragma once

#include "layout.h"
#include "miq/quantizer/packed_linear.h"

namespace miq::quantizer::packed {

/// Kernels of one instruction set; null where this build or CPU lacks it.
PanelKernel portable_kernel(CodeType type, int bits);
PanelKernel avx2_kernel(CodeType type, int bits);
PanelKernel avx512_kernel(CodeType type, int bits);

/// The best that the CPU has and limit_simd() allows.
PanelKernel panel_kernel(CodeType type, int bits);

}  // namespace miq::quantizer::packed
