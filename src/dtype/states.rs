//! The states of tokens in host memory, as f32 or as f16 that a device has rounded, and the memory
//! that they are kept in.

use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The exponent bits of f16. They are all set only in infinities and NaNs.
const EXPONENT: u16 = 0x7c00;
/// The bits of f16 without the sign.
const MAGNITUDE: u16 = 0x7fff;
/// What [`HalfStates`] has in the place of an infinity, without the sign.
const INFINITY: u16 = 0x7d00;

/// States of tokens, row by row.
#[derive(Debug, Clone, PartialEq)]
pub enum States {
    /// States as they were computed.
    F32(Buffer<f32>),
    /// States that were rounded to f16 on a device.
    F16(HalfStates),
}

/// States as f16, rounded to nearest even, with what is needed to refuse the states that f16 cannot
/// represent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HalfStates {
    /// The bits of the states. Infinities of f16 stand for finite states beyond the range of f16.
    /// The bits 0x7d00 and 0xfd00 stand for states that are infinite, and the bits of all other
    /// NaNs for states that are NaN.
    pub bits: Buffer<u16>,
    /// The states beyond the range of f16, at least the first one of each row.
    pub beyond: Vec<Beyond>,
}

/// A finite state beyond the range of f16.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beyond {
    /// The index of the state.
    pub at: usize,
    /// The state.
    pub value: f32,
}

impl Default for States {
    fn default() -> Self {
        Self::F32(Buffer::default())
    }
}

impl From<Vec<f32>> for States {
    fn from(values: Vec<f32>) -> Self {
        Self::F32(values.into())
    }
}

impl States {
    /// Returns the number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(half) => half.bits.len(),
        }
    }

    /// Returns whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the values if they are f32, and no values if a device has rounded them to f16.
    pub fn f32s(&self) -> &[f32] {
        match self {
            Self::F32(values) => values,
            Self::F16(_) => &[],
        }
    }

    /// Copies the values `range` of `from` to `at` and the following indices. The memory for `len`
    /// values in the format of `from` is prepared by the first call.
    pub fn put(&mut self, len: usize, at: usize, from: &Self, range: Range<usize>) {
        match from {
            Self::F32(from) => {
                if !matches!(self, Self::F32(to) if to.len() == len) {
                    *self = Self::F32(vec![0.0; len].into());
                }
                if let Self::F32(to) = self {
                    to[at..at + range.len()].copy_from_slice(&from[range]);
                }
            }
            Self::F16(from) => {
                if !matches!(self, Self::F16(to) if to.bits.len() == len) {
                    *self = Self::F16(HalfStates {
                        bits: vec![0; len].into(),
                        beyond: Vec::new(),
                    });
                }
                if let Self::F16(to) = self {
                    let inside = from.beyond.iter().filter(|b| range.contains(&b.at));
                    to.beyond.extend(inside.map(|b| Beyond {
                        at: b.at - range.start + at,
                        value: b.value,
                    }));
                    to.bits[at..at + range.len()].copy_from_slice(&from.bits[range]);
                }
            }
        }
    }

    /// Returns the first value of `range` that is NaN or infinite, and its index in the range.
    pub fn non_finite(&self, range: Range<usize>) -> Option<(usize, f32)> {
        match self {
            Self::F32(values) => {
                let values = &values[range];
                let at = values.iter().position(|v| !v.is_finite())?;
                Some((at, values[at]))
            }
            Self::F16(half) => {
                let bits = &half.bits[range];
                let at = bits.iter().position(|b| b & MAGNITUDE > EXPONENT)?;
                let value = match (bits[at] & MAGNITUDE, bits[at] & !MAGNITUDE) {
                    (INFINITY, 0) => f32::INFINITY,
                    (INFINITY, _) => f32::NEG_INFINITY,
                    _ => f32::NAN,
                };
                Some((at, value))
            }
        }
    }

    /// Returns the first finite value of `range` that is beyond the range of f16.
    pub fn beyond_f16(&self, range: Range<usize>) -> Option<f32> {
        match self {
            Self::F32(values) => {
                let beyond = |v: &&f32| v.is_finite() && half::f16::from_f32(**v).is_infinite();
                values[range].iter().find(beyond).copied()
            }
            Self::F16(half) => {
                let inside = half.beyond.iter().filter(|b| range.contains(&b.at));
                inside.min_by_key(|b| b.at).map(|b| b.value)
            }
        }
    }

    /// Writes the values `range`, little-endian, as f16 (`half`) or f32. Returns whether every
    /// value could be represented, and so was finite. `to` has room for exactly these values.
    ///
    /// States that a device has rounded to f16 can be written only as f16.
    pub fn encode(&self, half: bool, range: Range<usize>, to: &mut [u8]) -> bool {
        match (self, half) {
            (Self::F32(values), half) => encode(&values[range], half, to),
            (Self::F16(half), _) => {
                let to = to.as_chunks_mut().0;
                let bits = &half.bits[range];
                to.iter_mut()
                    .zip(bits)
                    .for_each(|(to, bits)| *to = bits.to_le_bytes());
                finite(bits.iter().copied())
            }
        }
    }
}

/// Writes `values`, little-endian, as f16 (`half`) or f32. Returns whether every value is finite and
/// could be represented. `to` has room for exactly these values.
pub fn encode(values: &[f32], half: bool, to: &mut [u8]) -> bool {
    if half {
        let to = to.as_chunks_mut().0;
        super::narrow::f32_to_f16(values, to);
        return finite(to.iter().map(|b| u16::from_le_bytes(*b)));
    }
    let mut special = 0;
    for (to, value) in to.as_chunks_mut().0.iter_mut().zip(values) {
        let bits = value.to_bits();
        *to = bits.to_le_bytes();
        // An exponent that has all its bits carries into the highest bit.
        special |= (bits & 0x7f80_0000) + 0x0080_0000;
    }
    special >> 31 == 0
}

/// Returns whether none of these f16 has all bits of the exponent.
fn finite(bits: impl Iterator<Item = u16>) -> bool {
    // Such an exponent carries into the highest bit.
    let special = bits.fold(0, |all, bits| all | ((bits & EXPONENT) + 0x0400));
    special >> 15 == 0
}

/// Values in memory that goes back to its [`Shelf`], if it came from one, when they are dropped.
///
/// The system clears fresh memory page by page, which takes longer than to copy a batch of states
/// there. So the memory of batches that were written is used again.
pub struct Buffer<T> {
    values: Vec<T>,
    shelf: Option<Shelf<T>>,
}

/// Memory that is used again.
pub struct Shelf<T> {
    unused: Arc<Mutex<Vec<Vec<T>>>>,
    /// The most pieces of memory that the shelf keeps.
    most: usize,
    /// The number of values that most buffers have room for, so that memory is seldom too small to
    /// be used again.
    usual: usize,
}

impl<T> Shelf<T> {
    /// Makes an empty shelf, which keeps up to `most` pieces of memory for `usual` values.
    pub fn new(most: usize, usual: usize) -> Self {
        Self {
            unused: Arc::default(),
            most,
            usual,
        }
    }

    /// Returns an empty buffer with room for `count` values.
    pub fn take(&self, count: usize) -> Buffer<T> {
        let unused = self.unused().pop();
        let mut values = unused.unwrap_or_default();
        if values.capacity() < count {
            // The old memory is freed first, since it need not be copied.
            values = Vec::new();
            values.reserve_exact(count.max(self.usual));
        }
        Buffer {
            values,
            shelf: Some(self.clone()),
        }
    }

    fn unused(&self) -> MutexGuard<'_, Vec<Vec<T>>> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Shelf<T> {
    fn clone(&self) -> Self {
        Self {
            unused: Arc::clone(&self.unused),
            ..*self
        }
    }
}

impl<T> fmt::Debug for Shelf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shelf")
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let Some(shelf) = &self.shelf else { return };
        let mut values = std::mem::take(&mut self.values);
        values.clear();
        let mut unused = shelf.unused();
        if unused.len() < shelf.most {
            unused.push(values);
        }
    }
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl<T> From<Vec<T>> for Buffer<T> {
    fn from(values: Vec<T>) -> Self {
        Self {
            values,
            shelf: None,
        }
    }
}

impl<T: Clone> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        self.values.clone().into()
    }
}

impl<T: PartialEq> PartialEq for Buffer<T> {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl<T: fmt::Debug> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.fmt(f)
    }
}

impl<T> Deref for Buffer<T> {
    type Target = Vec<T>;
    fn deref(&self) -> &Vec<T> {
        &self.values
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    /// Returns what a device makes of these states.
    fn rounded(values: &[f32]) -> States {
        let mut half = HalfStates::default();
        for (at, &value) in values.iter().enumerate() {
            let bits = f16::from_f32(value).to_bits();
            half.bits.push(match value.is_infinite() {
                true => bits | INFINITY,
                false => bits,
            });
            if value.is_finite() && bits & MAGNITUDE == EXPONENT {
                half.beyond.push(Beyond { at, value });
            }
        }
        States::F16(half)
    }

    fn written(states: &States, half: bool) -> Option<Vec<u8>> {
        let mut bytes = vec![0; states.len() * if half { 2 } else { 4 }];
        let fits = states.encode(half, 0..states.len(), &mut bytes);
        fits.then_some(bytes)
    }

    #[test]
    fn both_forms_are_written_and_refused_alike() {
        let fine = [0.0, -0.0, 1.0, -65519.9, 65504.0, 6e-8, 1e-30, 0.1, 1.0009];
        let wide: States = fine.to_vec().into();
        let bytes: Vec<u8> = fine
            .iter()
            .flat_map(|v| f16::from_f32(*v).to_le_bytes())
            .collect();
        assert_eq!(written(&wide, true), Some(bytes.clone()));
        assert_eq!(written(&rounded(&fine), true), Some(bytes));
        let bytes: Vec<u8> = fine.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(written(&wide, false), Some(bytes));
        for at in 0..fine.len() {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 65520.0, -1e9] {
                let mut values = fine;
                values[at] = value;
                for states in [values.to_vec().into(), rounded(&values)] {
                    let all = 0..values.len();
                    assert_eq!(written(&states, true), None, "{value} at {at}");
                    let found = states.non_finite(all.clone());
                    let beyond = states.beyond_f16(all);
                    if value.is_finite() {
                        assert_eq!((found, beyond), (None, Some(value)));
                    } else {
                        let (index, found) = found.unwrap();
                        assert_eq!((index, beyond), (at, None));
                        assert_eq!(found.to_string(), value.to_string());
                    }
                    // What comes before or after is not the range's.
                    assert_eq!(states.non_finite(0..at), None);
                    assert_eq!(states.beyond_f16(at + 1..values.len()), None);
                }
                assert_eq!(
                    written(&values.to_vec().into(), false).is_some(),
                    value.is_finite()
                );
            }
        }
    }

    #[test]
    fn parts_are_put_together() {
        for (a, b) in [
            (vec![1.0, 1e6].into(), vec![2.0, 3.0, 1e7].into()),
            (rounded(&[1.0, 1e6]), rounded(&[2.0, 3.0, 1e7])),
        ] {
            let mut whole = States::default();
            whole.put(4, 2, &a, 0..2);
            whole.put(4, 0, &b, 1..3);
            assert_eq!(whole.len(), 4);
            assert_eq!(whole.beyond_f16(0..4), Some(1e7));
            assert_eq!(whole.beyond_f16(2..4), Some(1e6));
            let mut bytes = [0; 4];
            assert!(whole.encode(true, 2..3, &mut bytes[..2]));
            assert!(whole.encode(true, 0..1, &mut bytes[2..]));
            assert_eq!(bytes, [0x00, 0x3c, 0x00, 0x42]);
        }
    }

    #[test]
    fn memory_comes_back_to_its_shelf() {
        let shelf = Shelf::new(2, 100);
        let mut first = shelf.take(60);
        first.extend([1.5; 7]);
        let place = first.as_ptr();
        drop(first);
        let again = shelf.take(100);
        assert_eq!((again.len(), again.as_ptr()), (0, place));
        assert!(shelf.take(10).as_ptr() != place);
        let many: Vec<Buffer<f64>> = (0..5).map(|_| shelf.take(1)).collect();
        drop(many);
        assert_eq!(shelf.unused().len(), 2);
        assert!(shelf.take(1000).capacity() >= 1000);
        // A copy has memory of its own.
        drop(again.clone());
        assert_eq!(shelf.unused().len(), 2);
    }
}
