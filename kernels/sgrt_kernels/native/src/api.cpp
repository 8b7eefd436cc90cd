// The C interface: instruction set, threads, and single products for tests and benchmarks.
#include "api.h"

#include <new>

#include "amx.h"
#include "format.h"
#include "linear.h"
#include "threads.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

using namespace sgrt;

SGRT_API const char* sgrt_isa() { return SGRT_ISA_NAME; }

// Best instruction set of the running CPU, of those that a library may exist for.
SGRT_API const char* sgrt_best_isa() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni");
    return avx512 ? "avx512" : (avx2 ? "avx2" : "generic");
#elif defined(__aarch64__) && defined(__APPLE__)
    return "neon";  // every Apple processor of this architecture has the dot product
#elif defined(__aarch64__) && defined(__linux__)
    constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
    return getauxval(AT_HWCAP) & kDotProduct ? "neon" : "generic";
#else
    return "generic";
#endif
}

SGRT_API void sgrt_set_num_threads(int n) { set_num_threads(n); }
SGRT_API int sgrt_num_threads() { return num_threads(); }

// Whether tile registers do the work of 16 rows and more; on by default where there are any.
SGRT_API int sgrt_has_amx() { return amx::available(); }
SGRT_API void sgrt_set_amx(int enabled) { amx::set_enabled(enabled != 0); }

// Null where the matrix cannot be packed or memory runs out.
SGRT_API void* sgrt_linear_new(int format, int rows, int cols, const void* raw) {
    if (!can_pack(format, rows, cols)) return nullptr;
    try {
        return new PackedLinear(
            pack_linear(Format(format), rows, cols, static_cast<const uint8_t*>(raw)));
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

SGRT_API void sgrt_linear_free(void* linear) { delete static_cast<PackedLinear*>(linear); }

// out [n, out_stride], out_stride >= rows rounded up to 16; x [n, cols]. 0, or 1 without memory.
SGRT_API int sgrt_linear_run(const void* packed, const float* x, int n, float* out,
                             int64_t out_stride) {
    const PackedLinear& w = *static_cast<const PackedLinear*>(packed);
    try {
        QuantizedRows rows;
        if (w.quantized()) quantize_rows(x, n, w.cols, w.cols, &rows);
        Activations a = rows.view(x, w.cols);
        a.rows = n;
        a.cols = w.cols;
        linear(w, a, out, out_stride);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

SGRT_API void sgrt_dequantize_row(int format, const void* row, int64_t cols, float* out) {
    dequantize_row(Format(format), static_cast<const uint8_t*>(row), cols, out);
}
