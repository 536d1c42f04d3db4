// GELU in its exact form, x * Phi(x), where Phi is the normal distribution (computed by erf, never
// by the tanh form), without a branch:
//
//     gelu(x) = max(x, 0) - |x| * Q(|x|),  Q(y) = Phi(-y)
//
// This is exact for both signs and loses nothing to cancellation on the negative side, where 1 +
// erf would. NaN gives NaN, and so do both infinities: an overflow must stay visible, but -inf
// would otherwise become -0.
#pragma once

#include "../common/number.cuh"
#include "../common/ptx.cuh"

// GELU for f16 and bf16. Rounded to T, the result is within 0.52 units in the last place of T.
template <typename T> __device__ __forceinline__ float gelu(float x) {
    // log2 Q(y) as a polynomial: minimax on [0, 13.3] (beyond, Q is below the least normal f32). It
    // is off by 7e-6 below y = 6 and by 6e-5 above, where f16 has no values any more. The relative
    // error of Q is 0.7 times that: 1/100 of a unit in the last place of f16 and of bf16.
    constexpr float LOG2_Q[10] = {-0.9999925494194031f,    -1.151355266571045f,     -0.4580482840538025f,
                                  -0.054550472646951675f,  0.008907468989491463f,   -0.0010756747797131538f,
                                  9.093496919376776e-05f,  -5.026863618695643e-06f, 1.6190323037790222e-07f,
                                  -2.2914548036823135e-09f};
    // fminf loses a NaN here, but the |x| below keeps it.
    const float y = fminf(fabsf(x), 13.3f);
    float q = LOG2_Q[9];
#pragma unroll
    for (int i = 8; i >= 0; i--) q = fmaf(q, y, LOG2_Q[i]);
    return fmaf(-fabsf(x), exp2_approx(q), fmaxf(x, 0.0f));
}

// GELU for f32: within 5 units in the last place of f32 (where Q is a normal number), 0.4 on
// average.
template <> __device__ __forceinline__ float gelu<float>(float x) {
    // Q(y) * exp(y^2 / 2) * (1 + 2 y) - 1 as a polynomial of t = (y - 4) / (y + 4): minimax on [0,
    // 14.5], with a relative error of 3e-9. The quotients are corrected by their remainders, as in
    // Shepherd and Laframboise's erfcx.
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
    // exp(-y^2 / 2), corrected by the rounding error of y * y: 100 units in the last place at the
    // far end.
    const float square = y * y;
    const float lost = fmaf(y, y, -square);
    const float e = expf(-0.5f * square);
    q *= fmaf(-0.5f * lost, e, e);
    // Near 0 the rounding of the quotients shows; no cancellation occurs below in this range.
    if (y < 0.75f) q = fmaf(-0.5f, erff(y * 0.70710678118654752440f), 0.5f);
    return fmaf(-fabsf(x), q, fmaxf(x, 0.0f));
}
