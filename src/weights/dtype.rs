//! Number formats of stored weights.

use half::{bf16, f16};

/// The number formats that weights are read from and written in.
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
    /// Bytes a value.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// What `--dtype` and the manifest call it.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        }
    }

    /// What safetensors calls it.
    pub fn safetensors_name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::Bf16 => "BF16",
        }
    }

    /// What PyTorch and config.json call it.
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

    /// Appends the little-endian values in `bytes` to `out`; an incomplete last value is left out.
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
