// The ladder of products on Hopper (with GELU, with rotation, added to the residual): variants of the kernel, the kernel itself, and
// cuBLASLt's best algorithm for the same product, by turns in one run, on random data, with inputs
// that rotate beyond L2. Every variant is compared with f64 and with the kernel before it is timed.
//
//     nvcc -O2 -std=c++17 -I ../../kernels/gemm -gencode=arch=compute_90a,code=sm_90a ladder.cu -o ladder -ldl
//     ./ladder burst [SHAPE...]; ./ladder sustained SHAPE...
//
// cuBLASLt and NVML are found when it runs: names, numbers and layouts are those of cublasLt.h and
// nvml.h.
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <cuda.h>
#include <cuda_runtime.h>

#include "variants.cuh"

#define CHECK(call)                                                                                           \
    do {                                                                                                      \
        const cudaError_t error_ = (call);                                                                    \
        if (error_ != cudaSuccess) {                                                                          \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_));        \
            exit(1);                                                                                          \
        }                                                                                                     \
    } while (0)

using namespace variants;
typedef __half T;

// ---- Random data.

__device__ uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}
__global__ void fill(T *to, uint64_t count, float deviation, uint64_t seed) {
    for (uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x; i < count; i += uint64_t(gridDim.x) * blockDim.x) {
        const uint64_t bits = mix(i + mix(seed) + 0x9e3779b97f4a7c15ull);
        const float u = (uint32_t(bits) + 1.0f) / 4294967296.0f, v = uint32_t(bits >> 32) / 4294967296.0f;
        to[i] = __float2half_rn(deviation * sqrtf(-2 * logf(fminf(u, 1.0f))) * cospif(2 * v));
    }
}

// A sum over all elements that depends on where each stands, and how many were not written.
__global__ void digest(const uint16_t *from, uint64_t count, unsigned long long *to) {
    unsigned long long sum = 0, bad = 0;
    for (uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x; i < count; i += uint64_t(gridDim.x) * blockDim.x)
        sum += mix(i * 65536 + from[i]), bad += from[i] == 0xffff;
    atomicAdd(&to[0], sum);
    if (bad) atomicAdd(&to[1], bad);
}

// ---- cuBLASLt.

struct CublasLt {
    typedef struct {
        uint64_t algorithm[8];
        size_t workspace;
        int state;
        float waves;
        int reserved[4];
    } Result;
    void *library = nullptr, *handle = nullptr, *workspace = nullptr;
    static constexpr size_t WORKSPACE = 64 << 20;
    template <class... A> int call(const char *name, A... arguments) {
        auto f = reinterpret_cast<int (*)(A...)>(dlsym(library, name));
        if (!f) return -1;
        return f(arguments...);
    }
    bool open() {
        for (const char *name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"})
            if ((library = dlopen(name, RTLD_NOW))) break;
        if (!library) return fprintf(stderr, "no cuBLASLt: %s\n", dlerror()), false;
        CHECK(cudaMalloc(&workspace, WORKSPACE));
        return call("cublasLtCreate", &handle) == 0;
    }
};
CublasLt lt;

// to [rows, width] = from [rows, depth] * weight [width, depth]^T + bias
struct LtProduct {
    void *description, *a, *b, *d, *preference;
    std::vector<CublasLt::Result> found;
    int best = 0;
    float beta;
    LtProduct(uint64_t rows, uint64_t width, uint64_t depth, int epilogue, bool adds) : beta(adds) {
        lt.call("cublasLtMatmulDescCreate", &description, 68, 0);
        const int transposed = 1, type = adds ? 0 : 2; // of the bias, as of the result
        set(3, &transposed, 4);
        set(7, &epilogue, 4);
        set(26, &type, 4);
        lt.call("cublasLtMatrixLayoutCreate", &a, 2, depth, width, int64_t(depth));
        lt.call("cublasLtMatrixLayoutCreate", &b, 2, depth, rows, int64_t(depth));
        lt.call("cublasLtMatrixLayoutCreate", &d, adds ? 0 : 2, width, rows, int64_t(width));
        lt.call("cublasLtMatmulPreferenceCreate", &preference);
        const size_t bytes = CublasLt::WORKSPACE;
        lt.call("cublasLtMatmulPreferenceSetAttribute", preference, 1, static_cast<const void *>(&bytes), sizeof bytes);
    }
    void set(int attribute, const void *value, size_t size) {
        lt.call("cublasLtMatmulDescSetAttribute", description, attribute, value, size);
    }
    void find(const void *bias) {
        set(8, &bias, 8);
        found.resize(24);
        int count = 0;
        lt.call("cublasLtMatmulAlgoGetHeuristic", lt.handle, description, a, b, d, d, preference, 24, found.data(),
                &count);
        found.resize(count);
    }
    int run(int which, const void *from, const void *weight, const void *bias, void *to) {
        const float one = 1;
        set(8, &bias, 8);
        return lt.call("cublasLtMatmul", lt.handle, description, static_cast<const void *>(&one), weight, a, from, b,
                       static_cast<const void *>(&beta), static_cast<const void *>(to), d, to, d,
                       static_cast<const void *>(found[which].algorithm), lt.workspace, size_t(CublasLt::WORKSPACE),
                       cudaStream_t(nullptr));
    }
};

// ---- The card's clock, power and energy.

struct Card {
    void *library = nullptr, *device = nullptr;
    bool open() {
        library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
        if (!library) return false;
        auto init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
        auto get = reinterpret_cast<int (*)(unsigned, void **)>(dlsym(library, "nvmlDeviceGetHandleByIndex_v2"));
        return init && get && init() == 0 && get(0, &device) == 0;
    }
    unsigned clock() {
        unsigned mhz = 0;
        auto f = reinterpret_cast<int (*)(void *, int, unsigned *)>(dlsym(library, "nvmlDeviceGetClockInfo"));
        if (f) f(device, 1, &mhz);
        return mhz;
    }
    double joules() {
        unsigned long long mj = 0;
        auto f = reinterpret_cast<int (*)(void *, unsigned long long *)>(
            dlsym(library, "nvmlDeviceGetTotalEnergyConsumption"));
        if (f) f(device, &mj);
        return mj / 1000.0;
    }
};
Card card;

// ---- Tensor maps.

typedef CUresult (*Encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                           const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                           CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
Encode encode;

TensorMap map(void *at, uint64_t rows, uint64_t columns, uint32_t box_rows, uint32_t box_columns, bool f32 = false) {
    CUtensorMap map;
    const cuuint64_t dims[2] = {columns, rows}, strides[1] = {columns * (f32 ? 4 : 2)};
    const cuuint32_t box[2] = {box_columns, box_rows}, ones[2] = {1, 1};
    const CUresult result =
        encode(&map, f32 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, at, dims, strides, box, ones,
               CU_TENSOR_MAP_INTERLEAVE_NONE,
               box_columns == 64 || f32 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) fprintf(stderr, "tensor map: %d\n", result), exit(1);
    TensorMap words;
    static_assert(sizeof words == sizeof map);
    memcpy(&words, &map, sizeof map);
    return words;
}

// ---- Shapes and what runs them.

enum class Kind { Gelu, Gated, Rotate, Residual };
struct Shape {
    const char *name;
    uint32_t rows, width, depth;
    Kind kind;
    uint32_t head_dim = 64; // of what is rotated
    bool gated() const { return kind == Kind::Gated; }
    uint32_t outputs() const { return width * (gated() ? 2 : 1); }
};
const Shape SHAPES[] = {
    {"650M", 33792, 5120, 1280, Kind::Gelu},         {"3B", 33792, 10240, 2560, Kind::Gelu},
    {"DNABERT-S", 33792, 3072, 768, Kind::Gated},    {"15B", 33792, 20480, 5120, Kind::Gelu},
    {"150M", 33792, 2560, 640, Kind::Gelu},          {"35M", 33792, 1920, 480, Kind::Gelu},
    {"8M", 33792, 1280, 320, Kind::Gelu},            {"8M-qkv", 33792, 960, 320, Kind::Rotate, 16},
    {"150M-qkv", 33792, 1920, 640, Kind::Rotate, 32}, {"650M-qkv", 33792, 3840, 1280, Kind::Rotate},
    {"3B-qkv", 33792, 7680, 2560, Kind::Rotate},     {"15B-qkv", 33792, 15360, 5120, Kind::Rotate, 128},
    {"650M-out", 33792, 1280, 1280, Kind::Residual},
    {"650M-fc2", 33792, 1280, 5120, Kind::Residual}, {"3B-out", 33792, 2560, 2560, Kind::Residual},
    {"3B-fc2", 33792, 2560, 10240, Kind::Residual},  {"DNABERT-S-out", 33792, 768, 768, Kind::Residual},
    {"DNABERT-S-fc2", 33792, 768, 3072, Kind::Residual},
};

constexpr int SETS = 3;
struct Data {
    Shape shape;
    T *from[SETS], *weight[SETS], *to[SETS], *bias; // `bias` is long enough to be read as f32
    uint32_t *positions;
    float2 *angles;
    explicit Data(const Shape &s) : shape(s) {
        const uint64_t out = s.outputs();
        std::vector<uint32_t> at(s.rows);
        const int half = s.head_dim / 2;
        std::vector<float2> angle(350 * half);
        for (uint32_t i = 0; i < s.rows; i++) at[i] = i % 350;
        for (int i = 0; i < 350 * half; i++) {
            const double a = i / half * pow(10000, -(i % half) / double(half));
            angle[i] = make_float2(cos(a), sin(a));
        }
        CHECK(cudaMalloc(&positions, at.size() * 4));
        CHECK(cudaMalloc(&angles, angle.size() * 8));
        CHECK(cudaMemcpy(positions, at.data(), at.size() * 4, cudaMemcpyHostToDevice));
        CHECK(cudaMemcpy(angles, angle.data(), angle.size() * 8, cudaMemcpyHostToDevice));
        for (int i = 0; i < SETS; i++) {
            CHECK(cudaMalloc(&from[i], uint64_t(s.rows) * s.depth * 2));
            CHECK(cudaMalloc(&weight[i], out * s.depth * 2));
            CHECK(cudaMalloc(&to[i], uint64_t(s.rows) * s.width * 4)); // f32, or both halves by cuBLASLt
            CHECK(cudaMemset(to[i], 0, uint64_t(s.rows) * s.width * 4));
            fill<<<1024, 256>>>(from[i], uint64_t(s.rows) * s.depth, 1, 10 + i);
            fill<<<1024, 256>>>(weight[i], out * s.depth, 2 / sqrtf(s.depth), 20 + i);
        }
        CHECK(cudaMalloc(&bias, out * 4));
        fill<<<64, 256>>>(bias, out * 2, 0.5, 30);
        CHECK(cudaDeviceSynchronize());
    }
    ~Data() {
        for (int i = 0; i < SETS; i++) cudaFree(from[i]), cudaFree(weight[i]), cudaFree(to[i]);
        cudaFree(bias), cudaFree(positions), cudaFree(angles);
    }
};

struct Runner {
    std::string name;
    int epilogue;
    bool ours;
    std::function<void(int)> run; // with this set
    std::vector<double> times;    // us
    bool good = true;
};

int multiprocessors = 132;

template <class V> void add(std::vector<Runner> &all, Data &data, const char *name, int band) {
    const Shape &s = data.shape;
    constexpr Epilogue E = V::EPILOGUE;
    if (s.kind == Kind::Residual ? E != Epilogue::Residual
                                 : E == Epilogue::Residual || s.gated() != (E == Epilogue::Gated) ||
                                       (E == Epilogue::Gelu && s.kind != Kind::Gelu))
        return;
    CHECK(cudaFuncSetAttribute(product<V>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(typename V::Shared)));
    std::vector<Params> params(SETS);
    for (int i = 0; i < SETS; i++)
        params[i] = {map(data.from[i], s.rows, s.depth, V::ROWS / 2, 64),
                     map(data.weight[i], s.outputs(), s.depth, V::COLUMNS / 2, 64),
                     map(data.to[i], s.rows, s.width, 64, V::SLAB_COLUMNS, E == Epilogue::Residual),
                     data.bias, s.rows, s.width, s.depth, uint32_t(band)};
    auto run = [params](int set) {
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(multiprocessors / V::CLUSTER * V::CLUSTER);
        config.blockDim = dim3(V::THREADS);
        config.dynamicSmemBytes = sizeof(typename V::Shared);
        cudaLaunchAttribute attribute = {};
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim = {V::CLUSTER, 1, 1};
        config.attrs = &attribute;
        config.numAttrs = V::CLUSTER > 1;
        CHECK(cudaLaunchKernelEx(&config, product<V>, params[set]));
    };
    all.push_back({std::string(name) + " band " + std::to_string(band), int(E), true, run});
}

// The band that the program takes.
uint32_t own_band(const Shape &s) {
    return std::max(1u, std::min(32u, uint32_t(GEMM_GELU_BAND_BYTES / (GEMM90_ROWS * s.depth * 2))));
}

template <bool GATED>
void add_gelu(std::vector<Runner> &all, Data &data, const char *name, void (*kernel)(GemmGeluParams)) {
    const Shape &s = data.shape;
    if (s.kind != (GATED ? Kind::Gated : Kind::Gelu)) return;
    std::vector<GemmGeluParams> params(SETS);
    for (int i = 0; i < SETS; i++) {
        GemmGeluParams &p = params[i];
        memset(&p, 0, sizeof p);
        p.from = map(data.from[i], s.rows, s.depth, 128, 64);
        p.weight = map(data.weight[i], s.outputs(), s.depth, 96, 64);
        p.to = map(data.to[i], s.rows, s.width, 64, GATED ? 32 : 64);
        p.bias = reinterpret_cast<uint64_t>(data.bias);
        p.rows = s.rows, p.width = s.width, p.depth = s.depth, p.band = own_band(s);
    }
    const int bytes = GEMM_GELU_SHARED_BYTES;
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    all.push_back({name, int(GATED ? Epilogue::Gated : Epilogue::Gelu), true,
                   [=](int set) { kernel<<<multiprocessors, GEMM90_THREADS, bytes>>>(params[set]); }});
}

void add_cublaslt(std::vector<Runner> &all, Data &data, int epilogue, const char *name) {
    const Shape &s = data.shape;
    const uint64_t out = s.outputs();
    auto product = std::make_shared<LtProduct>(s.rows, out, s.depth, epilogue, s.kind == Kind::Residual);
    product->find(data.bias);
    cudaEvent_t from, to;
    cudaEventCreate(&from), cudaEventCreate(&to);
    float least = 1e9;
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < int(product->found.size()); i++) {
            float ms = 0;
            usleep(2000);
            if (product->run(i, data.from[0], data.weight[0], data.bias, data.to[0]) != 0) continue;
            cudaEventRecord(from);
            for (int n = 0; n < 3; n++)
                product->run(i, data.from[n % SETS], data.weight[n % SETS], data.bias, data.to[n % SETS]);
            cudaEventRecord(to);
            CHECK(cudaDeviceSynchronize());
            cudaEventElapsedTime(&ms, from, to);
            if (ms < least) least = ms, product->best = i;
        }
    printf("# %s: %s has %d algorithms, the best is number %d\n", s.name, name, int(product->found.size()),
           product->best);
    if (product->found.empty()) return;
    all.push_back({name, 0, false, [=, &data](int set) {
                       product->run(product->best, data.from[set], data.weight[set], data.bias, data.to[set]);
                   }});
}

// The product of queries, keys and values, rotated and with its bias alone.
template <int D> void add_qkv(std::vector<Runner> &all, Data &data) {
    const Shape &s = data.shape;
    if (s.kind != Kind::Rotate || s.head_dim != D) return;
    void (*const kernel)(GemmQkvParams) =
        D == 16 ? gemm_qkv_f16_16 : D == 32 ? gemm_qkv_f16_32 : D == 64 ? gemm_qkv_f16_64 : gemm_qkv_f16_128;
    const int bytes = GEMM_QKV_SHARED_BYTES;
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    for (const bool rotated : {false, true}) {
        std::vector<GemmQkvParams> params(SETS);
        for (int i = 0; i < SETS; i++) {
            GemmQkvParams &p = params[i];
            memset(&p, 0, sizeof p);
            p.from = map(data.from[i], s.rows, s.depth, 128, 64);
            p.weight = map(data.weight[i], s.width, s.depth, D == 128 ? 32 : 96, 64);
            p.to = map(data.to[i], s.rows, s.width, 64, D == 128 ? 32 : 64);
            p.bias = reinterpret_cast<uint64_t>(data.bias);
            p.positions = reinterpret_cast<uint64_t>(data.positions);
            p.rotary = rotated ? reinterpret_cast<uint64_t>(data.angles) : 0;
            p.rows = s.rows, p.width = s.width, p.depth = s.depth, p.band = own_band(s);
        }
        all.push_back({rotated ? "qkv, rotated" : "qkv, bias", int(rotated ? Epilogue::Rotate : Epilogue::Bias), true,
                       [=](int set) { kernel<<<multiprocessors, GEMM90_THREADS, bytes>>>(params[set]); }});
    }
}

#include "list.cuh"

// The product in f64, [rows, outputs].
__global__ void reference(const T *from, const T *weight, const T *bias, double *to, uint32_t rows, uint32_t outputs,
                          uint32_t depth) {
    const uint64_t at = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x;
    if (at >= uint64_t(rows) * outputs) return;
    const uint64_t row = at / outputs, out = at % outputs;
    double sum = __half2float(bias[out]);
    for (uint32_t i = 0; i < depth; i++)
        sum += double(__half2float(from[row * depth + i])) * double(__half2float(weight[out * depth + i]));
    to[at] = sum;
}

// What the epilogue makes of a row of the product.
void finish(std::vector<double> &to, const double *x, const Shape &s, int epilogue, uint32_t row) {
    auto gelu = [](double v) { return 0.5 * v * erfc(-v * sqrt(0.5)); };
    for (uint32_t c = 0; c < s.width; c++) {
        double v = x[c];
        if (epilogue == int(Epilogue::Gelu)) v = gelu(v);
        if (epilogue == int(Epilogue::Gated)) v = gelu(v) * x[s.width + c];
        if (epilogue == int(Epilogue::Rotate) && c < s.width / 3 * 2) {
            const uint32_t half = s.head_dim / 2, i = c % half;
            const double a = row % 350 * pow(10000, -double(i) / half);
            v = c % s.head_dim < half ? x[c] * cos(a) - x[c + half] * sin(a) : x[c] * cos(a) + x[c - half] * sin(a);
        }
        to.push_back(v);
    }
}

// Compares the variants with each other, to the bit, and with f64.
void check(std::vector<Runner> &all, Data &data) {
    const Shape &s = data.shape;
    const uint32_t rows = 320;
    double *product;
    CHECK(cudaMalloc(&product, uint64_t(rows) * s.outputs() * 8));
    reference<<<rows * s.outputs() / 256 + 1, 256>>>(data.from[0], data.weight[0], data.bias, product, rows,
                                                      s.outputs(), s.depth);
    std::vector<double> x(uint64_t(rows) * s.outputs());
    CHECK(cudaMemcpy(x.data(), product, x.size() * 8, cudaMemcpyDeviceToHost));
    cudaFree(product);
    uint64_t first[8] = {};
    unsigned long long *sums;
    CHECK(cudaMalloc(&sums, 16));
    for (Runner &r : all) {
        if (!r.ours) continue;
        const bool f32 = r.epilogue == int(Epilogue::Residual);
        const uint64_t size = uint64_t(s.rows) * s.width * (f32 ? 4 : 2);
        CHECK(cudaMemset(data.to[0], f32 ? 0 : 0xff, size));
        r.run(0);
        const cudaError_t error = cudaDeviceSynchronize();
        if (error != cudaSuccess) {
            printf("! %s: %s\n", r.name.c_str(), cudaGetErrorString(error));
            exit(1);
        }
        CHECK(cudaMemset(sums, 0, 16));
        digest<<<1024, 256>>>(reinterpret_cast<const uint16_t *>(data.to[0]), size / 2, sums);
        unsigned long long both[2];
        CHECK(cudaMemcpy(both, sums, 16, cudaMemcpyDeviceToHost));
        std::vector<unsigned char> got(uint64_t(rows) * s.width * (f32 ? 4 : 2));
        CHECK(cudaMemcpy(got.data(), data.to[0], got.size(), cudaMemcpyDeviceToHost));
        std::vector<double> right;
        double off = 0, whole = 0;
        for (uint32_t row = 0; row < rows; row++)
            finish(right, &x[uint64_t(row) * s.outputs()], s, r.epilogue, row);
        for (uint64_t i = 0; i < right.size(); i++) {
            const double v = f32 ? reinterpret_cast<float *>(got.data())[i]
                                 : double(__half2float(reinterpret_cast<__half *>(got.data())[i]));
            off += (v - right[i]) * (v - right[i]), whole += right[i] * right[i];
        }
        off = sqrt(off / whole);
        if (!first[r.epilogue]) first[r.epilogue] = both[0];
        r.good = (f32 || !both[1]) && off < 3e-4 && both[0] == first[r.epilogue];
        printf("# %s: %s: off by %.2e%s\n", s.name, r.name.c_str(), off, r.good ? "" : ", WRONG");
        if (!r.good)
            printf("! %llu not written, bits %s\n", both[1], both[0] == first[r.epilogue] ? "the same" : "OTHERS");
    }
}

double median(std::vector<double> v) {
    if (v.empty()) return 0;
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
}

int main(int count, char **arguments) {
    setvbuf(stdout, nullptr, _IOLBF, 0);
    const bool sustained = count > 1 && !strcmp(arguments[1], "sustained");
    const int rounds = getenv("ROUNDS") ? atoi(getenv("ROUNDS")) : 9;
    const char *only = getenv("ONLY"); // names that contain one of these, separated by commas
    CHECK(cudaFree(nullptr));
    cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0);
    cudaDriverEntryPointQueryResult found;
    CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", reinterpret_cast<void **>(&encode), 12000,
                                           cudaEnableDefault, &found));
    if (!lt.open() || !card.open()) return 1;
    cudaEvent_t begin, end;
    cudaEventCreate(&begin), cudaEventCreate(&end);
    srand(1);
    for (const Shape &shape : SHAPES) {
        bool wanted = count <= 2;
        for (int i = 2; i < count; i++) wanted |= !strcmp(arguments[i], shape.name);
        if (!wanted) continue;
        Data data(shape);
        std::vector<Runner> every, all;
        add_cublaslt(every, data, 4, "cuBLASLt, bias");
        if (shape.kind == Kind::Gelu) add_cublaslt(every, data, 36, "cuBLASLt, bias, GELU by tanh");
        add_gelu<false>(every, data, "kernel", gemm_gelu_f16);
        add_gelu<true>(every, data, "kernel", gemm_gelu_gated_f16);
        add_all(every, data);
        for (Runner &r : every) {
            bool in = !only;
            if (only) {
                std::string list = only, part;
                for (char c : list + ",")
                    if (c == ',') in |= !part.empty() && r.name.find(part) != std::string::npos, part.clear();
                    else part += c;
            }
            if (in) all.push_back(r);
        }
        check(all, data);
        const double flop = 2.0 * shape.rows * shape.width * shape.depth * (shape.gated() ? 2 : 1);
        if (!sustained) {
            std::vector<int> order(all.size());
            for (size_t i = 0; i < order.size(); i++) order[i] = int(i);
            for (int round = 0; round < rounds; round++) {
                for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[rand() % i]);
                for (int which : order) {
                    Runner &r = all[which];
                    const int runs = std::max(3, std::min(30, int(10e-3 / (flop / 600e12))));
                    usleep(30000);
                    r.run(2);
                    cudaEventRecord(begin);
                    for (int n = 0; n < runs; n++) r.run(n % SETS);
                    cudaEventRecord(end);
                    CHECK(cudaDeviceSynchronize());
                    float ms;
                    cudaEventElapsedTime(&ms, begin, end);
                    r.times.push_back(ms * 1000 / runs);
                }
            }
            for (Runner &r : all) {
                std::vector<double> t = r.times;
                std::sort(t.begin(), t.end());
                printf("burst | %s | %-44s | %8.1f us | %6.1f TFLOP/s | %.1f to %.1f%s\n", shape.name, r.name.c_str(),
                       median(t), flop / median(t) * 1e-6, flop / t.back() * 1e-6, flop / t.front() * 1e-6,
                       r.good ? "" : " WRONG");
            }
        } else {
            for (int pass = 0; pass < (getenv("PASSES") ? atoi(getenv("PASSES")) : 2); pass++)
                for (Runner &r : all) {
                    const int runs = std::max(1, int(0.1 / (flop / 600e12)));
                    double energy = 0, seconds = 0;
                    std::vector<double> clocks, times;
                    for (int part = 0; part < 15; part++) { // 0.1 s each, the first 0.7 s to settle
                        if (part == 7) energy = card.joules();
                        cudaEventRecord(begin);
                        for (int n = 0; n < runs; n++) r.run(n % SETS);
                        cudaEventRecord(end);
                        usleep(50000);
                        if (part >= 7) clocks.push_back(card.clock());
                        CHECK(cudaDeviceSynchronize());
                        float ms;
                        cudaEventElapsedTime(&ms, begin, end);
                        if (part >= 7) times.push_back(ms * 1000 / runs), seconds += ms / 1000;
                    }
                    energy = card.joules() - energy;
                    printf("sustained | %s | %-44s | %8.1f us | %6.1f TFLOP/s | %.0f MHz | %.0f W | %.1f pJ/FLOP%s\n",
                           shape.name, r.name.c_str(), median(times), flop / median(times) * 1e-6, median(clocks),
                           energy / seconds, energy / seconds / (flop / median(times) * 1e6) * 1e12,
                           r.good ? "" : " WRONG");
                }
        }
    }
}
