//! The number formats of stored weights and of states, and conversions between them.

use half::{bf16, f16};

mod narrow;
mod states;

pub use states::{Beyond, Buffer, HalfStates, Shelf, States, encode};

/// A number format that weights are read from and written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of binary32.
    Bf16,
}

impl DType {
    /// Returns the bytes per value.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// Returns the name that `--dtype` and the manifest use.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        }
    }

    /// Returns the name that safetensors files use.
    pub fn safetensors_name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::Bf16 => "BF16",
        }
    }

    /// Returns the name that PyTorch and config.json use.
    pub fn torch_name(self) -> &'static str {
        match self {
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::Bf16 => "bfloat16",
        }
    }

    /// Rounds `values` to nearest even and appends them to `out`, little-endian.
    pub fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        out.reserve(values.len() * self.size());
        match self {
            DType::F32 => values
                .iter()
                .for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
            DType::F16 => values
                .iter()
                .for_each(|v| out.extend_from_slice(&f16::from_f32(*v).to_le_bytes())),
            DType::Bf16 => values
                .iter()
                .for_each(|v| out.extend_from_slice(&bf16::from_f32(*v).to_le_bytes())),
        }
    }

    /// Rounds the little-endian f32 values in `from` to nearest even and writes them to `to`,
    /// little-endian. The bits are those of [`encode`](Self::encode), but this is faster. It
    /// converts as many whole values as both slices hold, and leaves the other bytes of `to`
    /// unchanged.
    pub fn narrow(self, from: &[u8], to: &mut [u8]) {
        match self {
            DType::F32 => {
                let bytes = from.len().min(to.len()) / 4 * 4;
                to[..bytes].copy_from_slice(&from[..bytes]);
            }
            DType::F16 => narrow::to_f16(from.as_chunks().0, to.as_chunks_mut().0),
            DType::Bf16 => narrow::to_bf16(from.as_chunks().0, to.as_chunks_mut().0),
        }
    }

    /// Writes the little-endian values in `from`, which are of this type, to `to` as little-endian
    /// f32: every value has one, so nothing is rounded. It converts as many whole values as both
    /// slices hold, and leaves the other bytes of `to` unchanged.
    pub fn widen(self, from: &[u8], to: &mut [u8]) {
        fn each<const N: usize>(from: &[u8], to: &mut [u8], value: impl Fn([u8; N]) -> f32) {
            for (to, from) in to.as_chunks_mut().0.iter_mut().zip(from.as_chunks().0) {
                *to = value(*from).to_le_bytes();
            }
        }
        match self {
            DType::F32 => each(from, to, f32::from_le_bytes),
            DType::F16 => each(from, to, |b| f16::from_le_bytes(b).to_f32()),
            DType::Bf16 => each(from, to, |b| bf16::from_le_bytes(b).to_f32()),
        }
    }

    /// Appends the little-endian values in `bytes` to `out`. An incomplete last value is dropped.
    pub fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        out.reserve(bytes.len() / self.size());
        match self {
            DType::F32 => out.extend(
                bytes
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|b| f32::from_le_bytes(*b)),
            ),
            DType::F16 => out.extend(
                bytes
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|b| f16::from_le_bytes(*b).to_f32()),
            ),
            DType::Bf16 => out.extend(
                bytes
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|b| bf16::from_le_bytes(*b).to_f32()),
            ),
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values cover every rounding, both signs, subnormals, infinities and NaNs, and the bytes
    /// start at even and odd addresses.
    /// All values of 16 bits, NaN with its payload aside.
    #[test]
    fn widening_is_what_decoding_gives() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for dtype in [DType::F16, DType::Bf16] {
            let mut wanted = Vec::new();
            dtype.decode(&bytes, &mut wanted);
            // One byte of an incomplete value, and room for half a value more.
            let mut got = vec![0x55; 4 * wanted.len() + 2];
            dtype.widen(&[&bytes[..], &[1]].concat(), &mut got);
            let (values, rest) = got.as_chunks::<4>();
            for (got, wanted) in values.iter().zip(&wanted) {
                let got = f32::from_le_bytes(*got);
                assert!(got == *wanted || (got.is_nan() && wanted.is_nan()));
            }
            assert_eq!((values.len(), rest), (wanted.len(), &[0x55; 2][..]));
        }
    }

    #[test]
    fn to_narrow_is_to_encode() {
        let values: Vec<f32> = (0..=u16::MAX)
            .flat_map(|high| {
                let low = u32::from(high).wrapping_mul(0x9e37) & 0xffff;
                [
                    0, 1, 0x0fff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, low,
                ]
                .map(|low| f32::from_bits(u32::from(high) << 16 | low))
            })
            .collect();
        for offset in [0, 1] {
            let mut from = vec![0; offset];
            DType::F32.encode(&values, &mut from);
            from.extend([1, 2, 3]); // three bytes are no whole f32
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                let mut expected = Vec::new();
                dtype.encode(&values, &mut expected);
                let mut to = vec![0xee; expected.len() + dtype.size()];
                let (values, rest) = to.split_at_mut(expected.len());
                dtype.narrow(&from[offset..], values);
                assert!(values == expected, "{dtype}");
                assert!(rest.iter().all(|b| *b == 0xee));
            }
        }
    }

    #[test]
    fn encode_and_decode_are_inverse_up_to_rounding() {
        let values = [0.0f32, -1.5, 3.140625, 65504.0, 1.0e-4, f32::INFINITY];
        for (dtype, tolerance) in [
            (DType::F32, 0.0),
            (DType::F16, 1.0e-3),
            (DType::Bf16, 8.0e-3),
        ] {
            let (mut bytes, mut back) = (Vec::new(), Vec::new());
            dtype.encode(&values, &mut bytes);
            assert_eq!(bytes.len(), values.len() * dtype.size());
            dtype.decode(&bytes, &mut back);
            for (v, b) in values.iter().zip(&back) {
                assert!(
                    v == b || ((v - b) / v).abs() <= tolerance,
                    "{dtype}: {v} became {b}"
                );
            }
        }
    }

    #[test]
    fn known_bits() {
        let mut out = Vec::new();
        DType::F16.decode(&[0x00, 0x3c, 0x00, 0xc0, 0xff], &mut out);
        DType::Bf16.decode(&[0x80, 0x3f], &mut out);
        assert_eq!(out, [1.0, -2.0, 1.0]);
    }
}
