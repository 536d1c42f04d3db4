// Computes: queries, keys and values for Hopper, from * weight^T + bias, with queries and keys rotated
// (Su et al. 2021, rotate-half): columns i and i + D / 2 of each head of D columns are turned by the
// angle that the table has for the position of the row in its sequence. Sums are rotated in f32, and
// rounded once. Attention then has nothing to rotate, and takes its keys by tensor copies.
//
// Shapes: from T [rows, depth], weight T [width, depth], to T [rows, width], where width = 3 * heads *
// D: queries, keys and values; T is f16 or bf16, sums are f32. Any number of rows; depth is a
// multiple of 8, heads * D one of 32. A row has the same bits in every batch and grid.
//
// Launch: only on compute capability 9.0 (elsewhere the kernel is empty, and writes nothing). The
// grid has as many blocks as there are multiprocessors, or fewer; a block has 384 threads and
// GEMM_QKV_SHARED_BYTES of dynamic shared memory. The tensor maps have two dimensions, depth or width
// the inner one. The boxes are 64 x 128 rows for `from`, 64 x 96 for `weight` and 64 x 64 for `to`, all
// with a swizzle of 128 bytes. With heads of 128 they are 64 x 32 for `weight`, and 32 x 64 with a swizzle of
// 64 for `to`.
//
// Bound and measured: bound by the tensor cores and the power limit of the card, and by bytes at depth
// 320. On an H200, f16, T = 33792 rows, random data, in TFLOP/s; "cuBLASLt" is the best of its
// algorithms for the same product with bias and without rotation, in the same run:
//
//     width x depth, heads of   burst: cuBLASLt   this   steady: cuBLASLt   this
//        960 x 320, 16                      479    543                445    460
//       1920 x 640, 32                      708    713                600    606
//       3840 x 1280, 64                     751    776                608    645
//       7680 x 2560, 64                     795    800                647    669
//      15360 x 5120, 128                    791    786                667    667
//
// What was tried is in benches/results/2026-11-29-products-h200.md.
#include "gemm_qkv.cuh"

// The plain reference: one thread per output, in f64.
template <typename T> __device__ void gemm_qkv_reference(const GemmQkvReferenceParams &p) {
    const uint64_t here = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (here >= uint64_t(p.rows) * p.width) return;
    const uint64_t row = here / p.width, column = here % p.width;
    const T *from = at<const T>(p.from) + row * p.depth, *bias = at<const T>(p.bias);
    auto product = [&](uint64_t weight_row) {
        const T *weight = at<const T>(p.weight) + weight_row * p.depth;
        double sum = bias ? to_f32(bias[weight_row]) : 0.0f;
        for (uint32_t i = 0; i < p.depth; i++) sum += double(to_f32(from[i])) * double(to_f32(weight[i]));
        return sum;
    };
    double x = product(column);
    if (column < p.width / 3 * 2) {
        const uint32_t half = p.head_dim / 2, i = column % half;
        const bool second = column % p.head_dim >= half;
        const float *angle = at<const float>(p.rotary) + (uint64_t(at<const uint32_t>(p.positions)[row]) * half + i) * 2;
        const double partner = product(second ? column - half : column + half);
        x = x * double(angle[0]) + (second ? partner : -partner) * double(angle[1]);
    }
    at<T>(p.to)[here] = from_f32<T>(float(x));
}

#define GEMM_QKV(type, T)                                                                                     \
    KERNEL_RESIDENT(gemm_qkv_##type##_16, GemmQkvParams, GEMM90_THREADS, 1, gemm_qkv<T, 16>)                  \
    KERNEL_RESIDENT(gemm_qkv_##type##_32, GemmQkvParams, GEMM90_THREADS, 1, gemm_qkv<T, 32>)                  \
    KERNEL_RESIDENT(gemm_qkv_##type##_64, GemmQkvParams, GEMM90_THREADS, 1, gemm_qkv<T, 64>)                  \
    KERNEL_RESIDENT(gemm_qkv_##type##_128, GemmQkvParams, GEMM90_THREADS, 1, gemm_qkv<T, 128>)                \
    KERNEL(gemm_qkv_##type##_reference, GemmQkvReferenceParams, 256, gemm_qkv_reference<T>)

GEMM_QKV(f16, __half)
GEMM_QKV(bf16, __nv_bfloat16)
