//! Converts f32 to 16-bit formats at the speed of memory, since weights are rounded on their way to
//! a device.
//!
//! Values are little-endian and need no alignment. Each function converts as many values as both
//! slices hold.

use half::{bf16, f16};

type Wide = [u8; 4];
type Short = [u8; 2];

/// Converts to IEEE binary16, rounding to nearest even.
pub(super) fn to_f16(from: &[Wide], to: &mut [Short]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("f16c") && is_x86_feature_detected!("avx") {
        // SAFETY: this processor has both features.
        return unsafe { to_f16_f16c(from, to, f32::from_le_bytes) };
    }
    to_f16_plain(from, to, f32::from_le_bytes);
}

/// Converts numbers, and not bytes, to IEEE binary16, rounding to nearest even.
pub(super) fn f32_to_f16(from: &[f32], to: &mut [Short]) {
    let same = |value| value;
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("f16c") && is_x86_feature_detected!("avx") {
        // SAFETY: this processor has both features.
        return unsafe { to_f16_f16c(from, to, same) };
    }
    to_f16_plain(from, to, same);
}

/// Converts to bfloat16, rounding to nearest even.
pub(super) fn to_bf16(from: &[Wide], to: &mut [Short]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: this processor has the feature.
        return unsafe { to_bf16_avx2(from, to) };
    }
    to_bf16_plain(from, to);
}

fn to_f16_plain<T: Copy>(from: &[T], to: &mut [Short], number: impl Fn(T) -> f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f16::from_f32(number(*from)).to_le_bytes();
    }
}

#[inline(always)]
fn to_bf16_plain(from: &[Wide], to: &mut [Short]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = bf16::from_f32(f32::from_le_bytes(*from)).to_le_bytes();
    }
}

/// Converts eight values at a time. The crate `half` calls its own conversion of eight values
/// through a function that cannot be inlined, and is four times as slow.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,f16c")]
fn to_f16_f16c<T: Copy>(from: &[T], to: &mut [Short], number: impl Fn(T) -> f32) {
    use std::arch::x86_64::{
        _MM_FROUND_TO_NEAREST_INT, _mm_cvtsi128_si64, _mm_unpackhi_epi64, _mm256_cvtps_ph,
        _mm256_setr_ps,
    };
    let count = from.len().min(to.len());
    let (from, rest) = from[..count].as_chunks::<8>();
    let (to, to_rest) = to[..count].as_chunks_mut::<8>();
    for (to, from) in to.iter_mut().zip(from) {
        let [a, b, c, d, e, f, g, h] = from.map(&number);
        let short =
            _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_setr_ps(a, b, c, d, e, f, g, h));
        let (low, high) = (
            _mm_cvtsi128_si64(short),
            _mm_cvtsi128_si64(_mm_unpackhi_epi64(short, short)),
        );
        let both = u128::from(high as u64) << 64 | u128::from(low as u64);
        to.as_flattened_mut().copy_from_slice(&both.to_le_bytes());
    }
    to_f16_plain(rest, to_rest, number);
}

/// Runs the plain code: with AVX2 enabled the compiler turns it into vector instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn to_bf16_avx2(from: &[Wide], to: &mut [Short]) {
    to_bf16_plain(from, to);
}
