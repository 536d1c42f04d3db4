// What the attention kernels compute, plainly: one thread per query, in f64, the rotated numbers unrounded.
//
// Grid: heads * items blocks of 128 (heads fastest), items as the kernel attention_T_D takes them.
#include <cmath>

#include "../common/kernel.cuh"
#include "../params.h"
#include "../common/vector.cuh"

// q k^T of two rows, rotated where there is a table.
template <typename T>
__device__ double score(const T *q, const T *k, const float2 *for_q, const float2 *for_k, int width) {
    double sum = 0;
    for (int d = 0; d < width / 2; d++) {
        double a = to_f32(q[d]), b = to_f32(q[d + width / 2]), c = to_f32(k[d]), e = to_f32(k[d + width / 2]);
        if (for_q) {
            const double x = a * for_q[d].x - b * for_q[d].y, y = c * for_k[d].x - e * for_k[d].y;
            b = b * for_q[d].x + a * for_q[d].y;
            e = e * for_k[d].x + c * for_k[d].y;
            a = x;
            c = y;
        }
        sum += a * c + b * e;
    }
    return sum;
}

template <typename T> __device__ void attention_reference(const AttentionParams &p) {
    const uint32_t head = blockIdx.x % p.heads;
    const AttentionItem item = at<const AttentionItem>(p.items)[blockIdx.x / p.heads];
    const int width = int(p.head_dim);
    const uint64_t row_stride = uint64_t(p.heads) * width, stride = 3 * row_stride;
    const T *q = at<const T>(p.qkv) + item.first * stride + head * width, *k = q + row_stride, *v = k + row_stride;
    const float2 *rotary = at<const float2>(p.rotary);
    const double slope = p.slopes ? at<const float>(p.slopes)[head] : 0;
    for (uint32_t r = item.row + threadIdx.x; r < item.row + item.rows; r += blockDim.x) {
        const auto scaled_score = [&](uint32_t j) {
            const double s = score(q + r * stride, k + j * stride, rotary ? rotary + uint64_t(r) * (width / 2) : nullptr,
                                   rotary ? rotary + uint64_t(j) * (width / 2) : nullptr, width);
            return s * p.scale - slope * fabs(double(r) - double(j));
        };
        double row_max = -INFINITY, row_sum = 0, o[128] = {};
        for (uint32_t j = 0; j < item.length; j++) row_max = fmax(row_max, scaled_score(j));
        for (uint32_t j = 0; j < item.length; j++) {
            const double weight = exp(scaled_score(j) - row_max);
            row_sum += weight;
            for (int d = 0; d < width; d++) o[d] += weight * to_f32(v[j * stride + d]);
        }
        for (int d = 0; d < width; d++)
            at<T>(p.out)[(item.first + r) * row_stride + head * width + d] = from_f32<T>(float(o[d] / row_sum));
    }
}

KERNEL(attention_f32_reference, AttentionParams, 128, attention_reference<float>)
KERNEL(attention_f16_reference, AttentionParams, 128, attention_reference<__half>)
KERNEL(attention_bf16_reference, AttentionParams, 128, attention_reference<__nv_bfloat16>)
