// What seqstream asks of cuBLASLt, computed by one plain kernel. For `compute-sanitizer --tool racecheck`, under which
// cuBLASLt's own kernels for f16 and bf16 on Hopper end in an illegal address, so that no model can be looked at.
//
//     nvcc -O2 -arch=native -shared -Xcompiler -fPIC -o libplain_cublaslt.so plain_cublaslt.cu
//     SEQSTREAM_LIBCUBLASLT=$PWD/libplain_cublaslt.so SEQSTREAM_CACHE=/tmp/plain seqstream embed ...
//
// The second variable, because the one algorithm here must not be kept as one of cuBLASLt's. Names, numbers of
// attributes and the layout of structs are those of cublasLt.h; what seqstream does not use is missing.
#include <cstdint>
#include <cstring>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// Named: a function of types without a name is not exported.
namespace plain {

constexpr int SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15;
constexpr int F32 = 0, F16 = 2, BF16 = 14; // cudaDataType

struct Description {
    int transpose_a = 0, epilogue = 1, bias_type = F32;
    uint64_t bias = 0;
};
struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
};
struct Algorithm {
    uint64_t data[8];
};
struct Result {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

__device__ float element(int type, const void *from, uint64_t i) {
    if (type == F16) return __half2float(static_cast<const __half *>(from)[i]);
    if (type == BF16) return __bfloat162float(static_cast<const __nv_bfloat16 *>(from)[i]);
    return static_cast<const float *>(from)[i];
}

struct Product {
    Layout a, b, d; // column-major
    const void *at_a, *at_b, *bias;
    int bias_type;
    float beta;
    void *at_d;
};

// d = a^T b + beta d + bias, an element a thread.
__global__ void plain_product(Product p) {
    const uint64_t count = p.d.rows * p.d.columns;
    const uint64_t threads = uint64_t(gridDim.x) * blockDim.x;
    for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads) {
        const uint64_t row = i % p.d.rows, column = i / p.d.rows, to = column * p.d.stride + row;
        float sum = 0;
        for (uint64_t k = 0; k < p.a.rows; k++) {
            const float a = element(p.a.type, p.at_a, row * p.a.stride + k);
            sum = fmaf(a, element(p.b.type, p.at_b, column * p.b.stride + k), sum);
        }
        if (p.beta != 0) sum += p.beta * element(p.d.type, p.at_d, to);
        if (p.bias) sum += element(p.bias_type, p.bias, row);
        if (p.d.type == F16) static_cast<__half *>(p.at_d)[to] = __float2half_rn(sum);
        else if (p.d.type == BF16) static_cast<__nv_bfloat16 *>(p.at_d)[to] = __float2bfloat16_rn(sum);
        else static_cast<float *>(p.at_d)[to] = sum;
    }
}

template <typename T> int set(T &to, const void *value, size_t size) {
    if (size != sizeof(T)) return INVALID_VALUE;
    memcpy(&to, value, size);
    return SUCCESS;
}

template <typename T> int drop(T *object) {
    delete object;
    return SUCCESS;
}

} // namespace plain

using namespace plain;

extern "C" {

size_t cublasLtGetVersion() { return 130000; }
const char *cublasLtGetStatusName(int status) { return status == SUCCESS ? "SUCCESS" : "NOT_PLAIN"; }
const char *cublasLtGetStatusString(int) { return "the plain library does not do that"; }

int cublasLtCreate(void **handle) {
    *handle = new int(0);
    return SUCCESS;
}
int cublasLtDestroy(int *handle) { return drop(handle); }

int cublasLtMatmulDescCreate(Description **description, int, int) {
    *description = new Description;
    return SUCCESS;
}
int cublasLtMatmulDescDestroy(Description *description) { return drop(description); }
int cublasLtMatmulDescSetAttribute(Description *description, int attribute, const void *value, size_t size) {
    switch (attribute) {
    case 3: return set(description->transpose_a, value, size);
    case 7: return set(description->epilogue, value, size);
    case 8: return set(description->bias, value, size);
    case 26: return set(description->bias_type, value, size);
    default: return NOT_SUPPORTED;
    }
}

int cublasLtMatrixLayoutCreate(Layout **layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    *layout = new Layout{type, rows, columns, stride};
    return SUCCESS;
}
int cublasLtMatrixLayoutDestroy(Layout *layout) { return drop(layout); }
int cublasLtMatrixLayoutSetAttribute(Layout *layout, int attribute, const void *value, size_t size) {
    return attribute == 3 ? set(layout->columns, value, size) : NOT_SUPPORTED;
}

int cublasLtMatmulPreferenceCreate(int **preference) {
    *preference = new int(0);
    return SUCCESS;
}
int cublasLtMatmulPreferenceDestroy(int *preference) { return drop(preference); }
int cublasLtMatmulPreferenceSetAttribute(int *, int, const void *, size_t) { return SUCCESS; }

int cublasLtMatmulAlgoGetHeuristic(void *, Description *, Layout *, Layout *, Layout *, Layout *, int *, int wanted,
                                   Result *results, int *found) {
    *found = wanted > 0;
    if (wanted > 0) results[0] = Result{{{1}}, 0, SUCCESS, 1.0f, {}};
    return SUCCESS;
}
int cublasLtMatmulAlgoCheck(void *, Description *, Layout *, Layout *, Layout *, Layout *, const Algorithm *algorithm,
                            Result *result) {
    *result = Result{*algorithm, 0, SUCCESS, 1.0f, {}};
    return SUCCESS;
}
// No parts of K, no reduction: 0 whatever is asked.
int cublasLtMatmulAlgoConfigGetAttribute(const Algorithm *, int, void *value, size_t size, size_t *written) {
    memset(value, 0, size);
    if (written) *written = size;
    return SUCCESS;
}

int cublasLtMatmul(void *, const Description *description, const float *alpha, const void *a, const Layout *layout_a,
                   const void *b, const Layout *layout_b, const float *beta, const void *c, const Layout *, void *d,
                   const Layout *layout_d, const Algorithm *, void *, size_t, cudaStream_t stream) {
    const bool with_bias = description->epilogue == 4; // CUBLASLT_EPILOGUE_BIAS
    if (description->transpose_a != 1 || *alpha != 1 || c != d || (!with_bias && description->epilogue != 1))
        return NOT_SUPPORTED;
    const void *bias = with_bias ? reinterpret_cast<const void *>(description->bias) : nullptr;
    const Product product = {*layout_a, *layout_b, *layout_d, a, b, bias, description->bias_type, *beta, d};
    plain_product<<<1024, 256, 0, stream>>>(product);
    return cudaGetLastError() == cudaSuccess ? SUCCESS : EXECUTION_FAILED;
}
}
