// The ladder of attention by mma.sync: variants of the kernel and the kernel itself, by turns in one run, on random data,
// with inputs that rotate beyond L2. Every variant is compared with f64 before it is timed.
//
//     nvcc -O3 -std=c++17 -I ../../kernels -DHEAD=64 -gencode=arch=compute_90,code=sm_90 ladder.cu -o ladder64
//     ./ladder64
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <unistd.h>

#include <cuda_runtime.h>

#include "attention/attention_long.cuh"
#include "attention/rotate_keys.cu"

#define CHECK(call)                                                                                           \
    do {                                                                                                      \
        const cudaError_t error_ = (call);                                                                    \
        if (error_ != cudaSuccess) {                                                                          \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_));        \
            exit(1);                                                                                          \
        }                                                                                                     \
    } while (0)

typedef __half E;
constexpr int D = HEAD;

__device__ __host__ uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}
__global__ void fill(E *to, uint64_t count, float deviation, uint64_t seed) {
    for (uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x; i < count; i += uint64_t(gridDim.x) * blockDim.x) {
        const uint64_t bits = mix(i + mix(seed) + 0x9e3779b97f4a7c15ull);
        const float u = (uint32_t(bits) + 1.0f) / 4294967296.0f, v = uint32_t(bits >> 32) / 4294967296.0f;
        to[i] = __float2half_rn(deviation * sqrtf(-2 * logf(fminf(u, 1.0f))) * cospif(2 * v));
    }
}
__global__ void poison(E *to, uint64_t count) {
    for (uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x; i < count; i += uint64_t(gridDim.x) * blockDim.x)
        to[i] = __float2half_rn(NAN);
}

// One query of one head per thread, in f64; q and k are rotated and rounded as the kernels do it.
__device__ double rotated(const E *row, int d, const float2 *angles) {
    const int i = d % (D / 2);
    const double a = __half2float(row[i]), b = __half2float(row[i + D / 2]);
    if (!angles) return __half2float(row[d]);
    const double c = angles[i].x, s = angles[i].y;
    return __half2float(__float2half_rn(float(d < D / 2 ? a * c - b * s : b * c + a * s)));
}
__global__ void reference(const E *qkv, double *out, const float2 *rotary, const float *slopes, const int *starts, int heads,
                          int tokens, double *keys) {
    const int head = blockIdx.y, t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= tokens) return;
    int s = 0;
    while (starts[s + 1] <= t) s++;
    const int first = starts[s], length = starts[s + 1] - first;
    const uint64_t stride = 3 * heads * D;
    double q[D], o[D], sum = 0, most = -1e300;
    for (int d = 0; d < D; d++)
        q[d] = rotated(qkv + t * stride + head * D, d, rotary ? rotary + (t - first) * (D / 2) : nullptr), o[d] = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int j = 0; j < length; j++) {
            double score = 0;
            for (int d = 0; d < D; d++) score += q[d] * keys[(uint64_t(first + j) * heads + head) * D + d];
            score = score / sqrt(double(D)) - (slopes ? slopes[head] * abs(t - first - j) : 0.0);
            if (pass == 0) {
                most = fmax(most, score);
                continue;
            }
            const double w = exp(score - most);
            sum += w;
            for (int d = 0; d < D; d++)
                o[d] += w * double(__half2float(qkv[(first + j) * stride + 2 * heads * D + head * D + d]));
        }
    for (int d = 0; d < D; d++) out[(uint64_t(t) * heads + head) * D + d] = o[d] / sum;
}
__global__ void reference_keys(const E *qkv, const float2 *rotary, const int *starts, int heads, int tokens, double *keys) {
    const int head = blockIdx.y, t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= tokens) return;
    int s = 0;
    while (starts[s + 1] <= t) s++;
    for (int d = 0; d < D; d++)
        keys[(uint64_t(t) * heads + head) * D + d] = rotated(qkv + (uint64_t(t) * 3 + 1) * heads * D + head * D, d,
                                                   rotary ? rotary + (t - starts[s]) * (D / 2) : nullptr);
}

// A tile to try; the kernel's own is LongTile<D>.
template <int ROW_TILES, int WARPS, int KEYS, int STAGES, int Q_IN_REGISTERS, int BLOCKS> struct Try {
    static constexpr AttentionTile TILE = {
        D, ROW_TILES, WARPS, KEYS, STAGES, Q_IN_REGISTERS, BLOCKS, (16 * ROW_TILES * WARPS + 2 * STAGES * KEYS) * D * 2};
};
template <class Tile, bool READY>
__global__ void __launch_bounds__(32 * Tile::TILE.warps, Tile::TILE.blocks) variant(const __grid_constant__ AttentionParams p) {
    attention_long<E, D, true, READY, Tile>(p);
}
__global__ void __launch_bounds__(LOOP_THREADS) rotate_before(const __grid_constant__ AttentionParams p) {
    rotate_keys<E, D>(p);
}

struct Card {
    void *library = nullptr, *device = nullptr;
    bool open() {
        library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
        if (!library) return false;
        auto init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
        auto get = reinterpret_cast<int (*)(unsigned, void **)>(dlsym(library, "nvmlDeviceGetHandleByIndex_v2"));
        return init && get && init() == 0 && get(0, &device) == 0;
    }
    unsigned read(const char *name, int which) {
        unsigned value = 0;
        if (!library) return 0;
        if (which >= 0) {
            auto f = reinterpret_cast<int (*)(void *, int, unsigned *)>(dlsym(library, name));
            if (f) f(device, which, &value);
        } else {
            auto f = reinterpret_cast<int (*)(void *, unsigned *)>(dlsym(library, name));
            if (f) f(device, &value);
        }
        return value;
    }
    unsigned clock() { return read("nvmlDeviceGetClockInfo", 1); }
    unsigned watts() { return read("nvmlDeviceGetPowerUsage", -1) / 1000; }
} card;

constexpr int SETS = 2, LONGEST = 4160;
struct Batch {
    int heads, tokens;
    std::vector<int> starts;
    E *qkv[SETS], *out;
    float2 *rotary;
    float *slopes;
    int *device_starts;
    Batch(const std::vector<int> &lengths, int h, int sets = SETS) : heads(h) {
        starts = {0};
        for (int length : lengths) starts.push_back(starts.back() + length);
        tokens = starts.back();
        for (int i = 0; i < SETS; i++) {
            if (i >= sets) {
                qkv[i] = qkv[0];
                continue;
            }
            CHECK(cudaMalloc(&qkv[i], uint64_t(tokens) * 3 * heads * D * 2));
            fill<<<1024, 256>>>(qkv[i], uint64_t(tokens) * 3 * heads * D, 1.4f, 7 + i);
        }
        CHECK(cudaMalloc(&out, uint64_t(tokens) * heads * D * 2));
        std::vector<float2> angles(LONGEST * D / 2);
        for (int p = 0; p < LONGEST; p++)
            for (int i = 0; i < D / 2; i++) {
                const double x = p * pow(10000.0, -2.0 * i / D);
                angles[p * D / 2 + i] = make_float2(cos(x), sin(x));
            }
        std::vector<float> s(heads);
        for (int i = 0; i < heads; i++) s[i] = pow(0.5, i % 2 * 5 + 1);
        CHECK(cudaMalloc(&rotary, angles.size() * 8));
        CHECK(cudaMemcpy(rotary, angles.data(), angles.size() * 8, cudaMemcpyHostToDevice));
        CHECK(cudaMalloc(&slopes, heads * 4));
        CHECK(cudaMemcpy(slopes, s.data(), heads * 4, cudaMemcpyHostToDevice));
        CHECK(cudaMalloc(&device_starts, starts.size() * 4));
        CHECK(cudaMemcpy(device_starts, starts.data(), starts.size() * 4, cudaMemcpyHostToDevice));
        CHECK(cudaDeviceSynchronize());
    }
    ~Batch() {
        for (int i = 0; i < SETS; i++)
            if (i == 0 || qkv[i] != qkv[0]) cudaFree(qkv[i]);
        cudaFree(out), cudaFree(rotary), cudaFree(slopes), cudaFree(device_starts);
    }
    // Items of at most `rows` queries: of the sequences of one item, or of those of several.
    AttentionItem *items(int rows, bool several, int &count) const {
        std::vector<AttentionItem> all;
        for (size_t s = 0; s + 1 < starts.size(); s++) {
            const int length = starts[s + 1] - starts[s];
            for (int row = 0; row < length && (length > rows) == several; row += rows)
                all.push_back({uint32_t(starts[s]), uint32_t(length), uint32_t(row), uint32_t(std::min(rows, length - row))});
        }
        std::stable_sort(all.begin(), all.end(), [](const AttentionItem &a, const AttentionItem &b) {
            return uint64_t(a.rows) * a.length > uint64_t(b.rows) * b.length;
        });
        count = int(all.size());
        AttentionItem *to;
        CHECK(cudaMalloc(&to, all.size() * sizeof(AttentionItem)));
        CHECK(cudaMemcpy(to, all.data(), all.size() * sizeof(AttentionItem), cudaMemcpyHostToDevice));
        return to;
    }
};

typedef void (*Kernel)(AttentionParams);
struct Entry {
    std::string name;
    Kernel rotating, ready;
    int threads, bytes, rows;
};
std::vector<Entry> entries;

template <class Tile> void add(const char *name) {
    const AttentionTile tile = Tile::TILE;
    entries.push_back({name, variant<Tile, false>, variant<Tile, true>, int(32 * tile.warps), int(tile.shared_bytes),
                       int(16 * tile.row_tiles * tile.warps)});
}

// Without a position term; with rotation of queries and keys, of those of several items before the kernel; that alone;
// with ALiBi.
enum Mode { PLAIN, ROTATED, PASS, ALIBI };

struct Launch {
    const Entry &entry;
    const Batch &batch;
    AttentionItem *items[2]; // of sequences of one item, and of several
    int count[2];
    Launch(const Entry &e, const Batch &b) : entry(e), batch(b) {
        for (int several = 0; several < 2; several++) items[several] = b.items(e.rows, several, count[several]);
    }
    ~Launch() { cudaFree(items[0]), cudaFree(items[1]); }
    void run(Mode mode, int set, E *qkv = nullptr) const {
        AttentionParams p = {};
        p.qkv = uint64_t(qkv ? qkv : batch.qkv[set]), p.out = uint64_t(batch.out);
        p.heads = batch.heads, p.head_dim = D, p.scale = 1 / sqrtf(D);
        if (mode == ROTATED || mode == PASS) p.rotary = uint64_t(batch.rotary);
        if (mode == ALIBI) p.slopes = uint64_t(batch.slopes);
        for (int several = 0; several < 2; several++) {
            if (count[several] == 0) continue;
            p.items = uint64_t(items[several]), p.count = count[several];
            if (p.rotary && several) rotate_before<<<p.count * ROTATE_BLOCKS, LOOP_THREADS>>>(p);
            if (mode == PASS) continue;
            const Kernel kernel = p.rotary && !several ? entry.rotating : entry.ready;
            kernel<<<batch.heads * p.count, entry.threads, entry.bytes>>>(p);
        }
    }
};

// Relative error of the worst sequence, or -1 where neighbours matter or something was not written.
double off(const Entry &entry, const Batch &batch, Mode mode, const std::vector<double> &wanted) {
    Launch launch(entry, batch);
    const uint64_t width = batch.heads * D, size = uint64_t(batch.tokens) * width;
    E *qkv;
    CHECK(cudaMalloc(&qkv, size * 6));
    std::vector<E> got[3];
    for (int round = 0; round < 3; round++) { // then every other sequence is full of NaN
        CHECK(cudaMemcpy(qkv, batch.qkv[0], size * 6, cudaMemcpyDeviceToDevice));
        CHECK(cudaMemset(batch.out, 0xff, size * 2));
        for (size_t s = 0; round && s + 1 < batch.starts.size(); s++)
            if (int(s) % 2 == round - 1 && batch.starts[s + 1] > batch.starts[s])
                poison<<<64, 256>>>(qkv + batch.starts[s] * width * 3, (batch.starts[s + 1] - batch.starts[s]) * width * 3);
        launch.run(mode, 0, qkv);
        const cudaError_t error = cudaDeviceSynchronize();
        if (error != cudaSuccess) printf("! %s: %s\n", entry.name.c_str(), cudaGetErrorString(error)), exit(1);
        got[round].resize(size);
        CHECK(cudaMemcpy(got[round].data(), batch.out, size * 2, cudaMemcpyDeviceToHost));
    }
    CHECK(cudaFree(qkv));
    double worst = 0;
    for (size_t s = 0; s + 1 < batch.starts.size(); s++) {
        double difference = 0, whole = 0;
        const uint64_t from = batch.starts[s] * width, to = batch.starts[s + 1] * width;
        if (from == to) continue;
        for (uint64_t i = from; i < to; i++) {
            const double x = __half2float(got[0][i]);
            difference += (x - wanted[i]) * (x - wanted[i]), whole += wanted[i] * wanted[i];
        }
        const double error = sqrt(difference / whole);
        if (!(error < 1)) return printf("! sequence %zu: %g\n", s, error), -1;
        worst = std::max(worst, error);
        if (memcmp(&got[0][from], &got[1 + (s + 1) % 2][from], (to - from) * 2)) return printf("! neighbours of %zu\n", s), -1;
    }
    return worst;
}

int main(int count, char **arguments) {
    setvbuf(stdout, nullptr, _IOLBF, 0);
    CHECK(cudaFree(nullptr));
    card.open();
    add<LongTile<D>>("kernel");
#include "list.cuh"
    for (Entry &e : entries)
        for (Kernel kernel : {e.rotating, e.ready}) {
            CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, e.bytes));
            CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100));
        }
    const int heads = D == 128 ? 40 : 20;
    if (count > 4 && !strcmp(arguments[1], "profile")) { // VARIANT MODE LENGTH, for the profiler
        const int length = atoi(arguments[4]);
        const Batch batch(std::vector<int>((33800 + length - 1) / length, length), heads);
        const Launch launch(entries[atoi(arguments[2])], batch);
        for (int n = 0; n < 3; n++) launch.run(Mode(atoi(arguments[3])), n % SETS);
        CHECK(cudaDeviceSynchronize());
        return 0;
    }
    const char *names[] = {"plain", "rotated", "keys alone", "ALiBi"};
    {
        const Batch batch({1, 2, 7, 15, 0, 16, 17, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 160, 161, 191, 192, 193,
                           256, 257, 350, 351, 385, 511, 512, 700, 1022}, 2, 1);
        const uint64_t size = uint64_t(batch.tokens) * batch.heads * D;
        double *wanted[4], *keys;
        CHECK(cudaMalloc(&keys, size * 8));
        std::vector<double> host[4];
        for (Mode mode : {PLAIN, ROTATED, ALIBI}) {
            const float2 *rotary = mode == ROTATED ? batch.rotary : nullptr;
            CHECK(cudaMalloc(&wanted[mode], size * 8));
            const dim3 grid((batch.tokens + 63) / 64, batch.heads);
            reference_keys<<<grid, 64>>>(batch.qkv[0], rotary, batch.device_starts, batch.heads, batch.tokens, keys);
            reference<<<grid, 64>>>(batch.qkv[0], wanted[mode], rotary, mode == ALIBI ? batch.slopes : nullptr,
                                    batch.device_starts, batch.heads, batch.tokens, keys);
            CHECK(cudaDeviceSynchronize());
            host[mode].resize(size);
            CHECK(cudaMemcpy(host[mode].data(), wanted[mode], size * 8, cudaMemcpyDeviceToHost));
            cudaFree(wanted[mode]);
        }
        cudaFree(keys);
        for (const Entry &e : entries) {
            printf("# %-44s", e.name.c_str());
            for (Mode mode : {PLAIN, ROTATED, ALIBI}) printf(" %s %.2e", names[mode], off(e, batch, mode, host[mode]));
            int blocks = 0;
            cudaFuncAttributes a;
            CHECK(cudaFuncGetAttributes(&a, e.ready));
            CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, e.ready, e.threads, e.bytes));
            printf("; %d registers, %d spilled bytes, %d blocks\n", a.numRegs, int(a.localSizeBytes), blocks);
        }
    }
    std::vector<int> at = {100, 350, 512, 1022, 4096};
    if (count > 1) {
        at.clear();
        for (int i = 1; i < count; i++) at.push_back(atoi(arguments[i]));
    }
    const Mode modes[] = {PLAIN, ROTATED, ALIBI};
    printf("\nTFLOP/s, %d heads of %d", heads, D);
    for (int length : at) printf(", %d", length);
    printf("\n");
    std::vector<std::vector<double>> rates(entries.size(), std::vector<double>(3 * at.size()));
    std::vector<std::string> states(at.size());
    cudaEvent_t from, to;
    cudaEventCreate(&from), cudaEventCreate(&to);
    const auto series = [&](const Launch &launch, Mode mode) {
        usleep(10000);
        std::vector<float> times;
        for (int n = -2; n < 11; n++) {
            cudaEventRecord(from);
            launch.run(mode, (n + 2) % SETS);
            cudaEventRecord(to);
            CHECK(cudaEventSynchronize(to));
            float ms;
            cudaEventElapsedTime(&ms, from, to);
            if (n >= 0) times.push_back(ms);
        }
        std::sort(times.begin(), times.end());
        return times[times.size() / 2] * 1e-3;
    };
    std::string passes;
    for (size_t l = 0; l < at.size(); l++) {
        const Batch batch(std::vector<int>((33800 + at[l] - 1) / at[l], at[l]), heads);
        {
            const Launch launch(entries[0], batch);
            char line[100];
            snprintf(line, sizeof line, "%d: %.1f us; ", at[l], 1e6 * series(launch, PASS));
            passes += line;
        }
        for (size_t i = 0; i < entries.size(); i++) {
            const Launch launch(entries[i], batch);
            for (int m = 0; m < 3; m++)
                rates[i][m * at.size() + l] = 4.0 * batch.tokens * at[l] * heads * D / series(launch, modes[m]) / 1e12;
        }
        states[l] = std::to_string(at[l]) + ": " + std::to_string(card.clock()) + " MHz, " + std::to_string(card.watts()) + " W";
    }
    for (size_t i = 0; i < entries.size(); i++) {
        printf("%-28s", entries[i].name.c_str());
        for (int m = 0; m < 3; m++) {
            printf(" %s", names[modes[m]]);
            for (size_t l = 0; l < at.size(); l++) printf(" %5.1f", rates[i][m * at.size() + l]);
        }
        printf("\n");
    }
    printf("rotating keys before: %s\n", passes.c_str());
    for (const std::string &state : states) printf("%s; ", state.c_str());
    printf("at the end of each length\n");
}
