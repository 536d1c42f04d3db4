// GELU in its exact form, x * Phi(x) with Phi the normal distribution (erf, never the tanh form),
// without a branch:
//
//     gelu(x) = max(x, 0) - |x| * Q(|x|),  Q(y) = Phi(-y)
//
// which is exact for both signs and loses nothing to cancellation on the negative side, where
// 1 + erf would. NaN gives NaN, and so do both infinities: an overflow must not vanish, and -inf
// would as -0.
#pragma once

#include "number.cuh"
#include "ptx.cuh"

// Rounded to T it is within 0.52 units in the last place of T.
template <typename T> __device__ __forceinline__ float gelu(float x) {
    // log2 Q(y) as a polynomial: minimax on [0, 13.3] (beyond, Q is below the least normal f32), off by
    // 7e-6 below y = 6 and by 6e-5 above, where f16 has no values any more. Q is off by 0.7 of
    // that, relatively: 1/100 of a unit in the last place of f16 and of bf16.
    constexpr float LOG2_Q[10] = {-0.9999925494194031f,    -1.151355266571045f,     -0.4580482840538025f,
                                  -0.054550472646951675f,  0.008907468989491463f,   -0.0010756747797131538f,
                                  9.093496919376776e-05f,  -5.026863618695643e-06f, 1.6190323037790222e-07f,
                                  -2.2914548036823135e-09f};
    // What this loses of a NaN, the |x| below keeps.
    const float y = fminf(fabsf(x), 13.3f);
    float q = LOG2_Q[9];
#pragma unroll
    for (int i = 8; i >= 0; i--) q = fmaf(q, y, LOG2_Q[i]);
    return fmaf(-fabsf(x), exp2_approx(q), fmaxf(x, 0.0f));
}

// Within 5 units in the last place of f32 (where Q is a normal number), 0.4 on average.
template <> __device__ __forceinline__ float gelu<float>(float x) {
    // Q(y) * exp(y^2 / 2) * (1 + 2 y) - 1 as a polynomial of t = (y - 4) / (y + 4): minimax on [0, 14.5], off
    // by 3e-9 relatively. The quotients are corrected by what they leave, as in Shepherd and
    // Laframboise's erfcx.
    constexpr float SCALED_Q[11] = {-0.15030422806739807f, -0.023009205237030983f, -0.0963800773024559f,
                                    0.12890703976154327f, -0.09525914490222931f, 0.044376056641340256f,
                                    -0.010515401139855385f, -0.0012602047063410282f, 0.00156116031575948f,
                                    -5.8859772252617404e-05f, -0.00014748377725481987f};
    const float y = fminf(fabsf(x), 14.5f);
    const float fourth = 1.0f / (y + 4.0f);
    float t = (y - 4.0f) * fourth;
    t = fmaf(fourth, fmaf(t, -y, fmaf(t + 1.0f, -4.0f, y)), t);
    float p = SCALED_Q[10];
#pragma unroll
    for (int i = 9; i >= 0; i--) p = fmaf(p, t, SCALED_Q[i]);
    const float half = 1.0f / fmaf(2.0f, y, 1.0f);
    float q = fmaf(p, half, half);
    q = fmaf(half, fmaf(-2.0f * q, y, 1.0f) + (p - q), q);
    // exp(-y^2 / 2) with what y * y loses to rounding: 100 units in the last place at the far end.
    const float square = y * y;
    const float lost = fmaf(y, y, -square);
    const float e = expf(-0.5f * square);
    q *= fmaf(-0.5f * lost, e, e);
    // Near 0 the quotients' rounding shows; there nothing cancels below.
    if (y < 0.75f) q = fmaf(-0.5f, erff(y * 0.70710678118654752440f), 0.5f);
    return fmaf(-fabsf(x), q, fmaxf(x, 0.0f));
}
