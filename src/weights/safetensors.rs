//! Reads the header of a safetensors file.
//!
//! The `safetensors` crate (0.8.0) is not used for this. It adds up a malicious file's offsets
//! until they overflow, which is a panic where overflow is checked, and its errors do not say which
//! tensor is wrong.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::stored::MOST_DIMENSIONS;
use super::stored::Malformed;
use super::stored::StoredDType;
use super::stored::StoredTensor;
use super::stored::element_count;
use super::stored::fitting_name;
use crate::dtype::DType;
use crate::untrusted::Shown;
use crate::untrusted::shown;

/// The longest header that the format allows, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;
/// Bytes before the header, which hold its length.
const PREFIX: usize = 8;

/// Reads the header of a safetensors file, and returns the tensors in the order of their data.
/// `file` is the whole file.
///
/// # Errors
/// [`Malformed`] if the header is malformed, or does not describe exactly the bytes that follow it.
pub fn read_header(file: &[u8]) -> Result<Vec<StoredTensor>, Malformed> {
    let (length, rest) = file.split_first_chunk::<PREFIX>().ok_or_else(|| {
        Malformed::damaged(format!(
            "{} bytes are too few for a safetensors file",
            file.len()
        ))
    })?;
    let length = u64::from_le_bytes(*length);
    if length > LONGEST_HEADER {
        return Err(Malformed::damaged(format!(
            "bytes 0 to 8 give a safetensors header of {length} bytes, more than the format allows"
        )));
    }
    let Some((header, data)) = rest.split_at_checked(length as usize) else {
        return Err(Malformed::damaged(format!(
            "the header should be {length} bytes long, but only {} follow its length",
            rest.len()
        )));
    };
    let Header(mut entries) = serde_json::from_slice(header).map_err(|error| {
        Malformed::damaged(format!(
            "the safetensors header, which starts at byte {PREFIX}, is malformed: {}",
            shown::parser(&error)
        ))
    })?;
    let mut names = HashSet::with_capacity(entries.len());
    if let Some((twice, _)) = entries
        .iter()
        .find(|(name, _)| !names.insert(name.as_str()))
    {
        return Err(Malformed::damaged(format!(
            "the header has tensor {} twice",
            Shown(twice)
        )));
    }

    entries.sort_by_key(|(_, info)| info.data_offsets);
    let data_start = PREFIX + header.len();
    let mut tensors = Vec::with_capacity(entries.len());
    let mut expected_start = 0;
    for (name, info) in entries {
        let (start, end) = info.data_offsets;
        if start != expected_start || end < start {
            return Err(Malformed::damaged(format!(
                "tensor {} should lie at {expected_start} of the data, but its offsets are {start} to {end}",
                Shown(&name)
            )));
        }
        expected_start = end;
        let (Format(dtype), Shape(shape)) = (info.dtype, info.shape);
        if let Some(size) = dtype.size() {
            let bytes = element_count(&shape).and_then(|n| n.checked_mul(size));
            if bytes != Some(end - start) {
                return Err(Malformed::damaged(format!(
                    "tensor {} of shape {} in {dtype} cannot be the {} bytes its offsets give",
                    Shown(&name),
                    shown::shape(&shape),
                    end - start
                )));
            }
        }
        // The end of the last tensor is compared with the file's end below, and the other tensors
        // lie before it. Once that check has passed, no sum here can have overflowed.
        let place = data_start.saturating_add(start)..data_start.saturating_add(end);
        tensors.push(StoredTensor {
            name,
            dtype,
            shape,
            place: Ok(place),
        });
    }
    if expected_start != data.len() {
        let what = format!(
            "the header describes {expected_start} bytes of tensors, but {} bytes follow it",
            data.len()
        );
        return Err(Malformed::damaged(what));
    }
    Ok(tensors)
}

/// The number format of this name. A file with an unknown format is not malformed: the format is
/// only one more that this program does not read.
fn dtype(name: &str) -> StoredDType {
    match name {
        "F32" => StoredDType::Float(DType::F32),
        "F16" => StoredDType::Float(DType::F16),
        "BF16" => StoredDType::Float(DType::Bf16),
        "F64" => StoredDType::Other("f64", Some(8)),
        "I64" => StoredDType::Other("i64", Some(8)),
        "U64" => StoredDType::Other("u64", Some(8)),
        "I32" => StoredDType::Other("i32", Some(4)),
        "U32" => StoredDType::Other("u32", Some(4)),
        "I16" => StoredDType::Other("i16", Some(2)),
        "U16" => StoredDType::Other("u16", Some(2)),
        "I8" => StoredDType::Other("i8", Some(1)),
        "U8" => StoredDType::Other("u8", Some(1)),
        "BOOL" => StoredDType::Other("bool", Some(1)),
        "C64" => StoredDType::Other("complex64", Some(8)),
        "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => StoredDType::Other("f8", Some(1)),
        _ => StoredDType::Other("an unknown format", None),
    }
}

struct Header(Vec<(String, Info)>);

#[derive(Deserialize)]
struct Info {
    dtype: Format,
    shape: Shape,
    data_offsets: (usize, usize),
}

/// A number format, read from its name. Nothing of the name is kept.
struct Format(StoredDType);

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Format;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name of a number format")
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<Format, E> {
                Ok(Format(dtype(name)))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// A shape. Its length is bounded, since it takes four times as many bytes here as it may take in
/// the file.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of sizes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = list.next_element()? {
                    if sizes.len() == MOST_DIMENSIONS {
                        return Err(A::Error::custom(format!(
                            "a tensor has more than {MOST_DIMENSIONS} dimensions"
                        )));
                    }
                    sizes.push(size);
                }
                Ok(Shape(sizes))
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map from tensor names to dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<serde::de::IgnoredAny>()?;
            } else {
                fitting_name(&name, entries.len()).map_err(A::Error::custom)?;
                entries.push((name, map.next_value()?));
            }
        }
        Ok(Header(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn refusal(header: &str, data: usize) -> String {
        read_header(&file(header, data)).unwrap_err().what
    }

    #[test]
    fn a_header_of_two_tensors() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"I64","shape":[],"data_offsets":[6,14]},
            "a":{"dtype":"F16","shape":[3,1],"data_offsets":[0,6]}}"#;
        let tensors = read_header(&file(header, 14)).unwrap();
        let start = PREFIX + header.len();
        assert_eq!(tensors[0].name, "a");
        assert_eq!(tensors[0].dtype, StoredDType::Float(DType::F16));
        assert_eq!(tensors[0].place, Ok(start..start + 6));
        assert_eq!(tensors[1].dtype.to_string(), "i64");
        assert_eq!(tensors[1].values(), 1);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        assert!(
            refusal(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
                4
            )
            .contains("tensor a")
        );
        assert!(
            refusal(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                8
            )
            .contains("tensor a")
        );
        assert!(
            refusal(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                3
            )
            .contains("but 3 bytes")
        );
        assert!(
            refusal(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                5
            )
            .contains("but 5 bytes")
        );
        assert!(
            refusal(
                r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
                4
            )
            .contains("malformed")
        );
        let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        assert!(refusal(twice, 1).contains("tensor a"));
        assert!(refusal("[]", 0).contains("malformed"));
    }

    #[test]
    fn offsets_that_overflow_are_refused() {
        let half = 1usize << 63;
        let header = format!(
            r#"{{"a":{{"dtype":"U8","shape":[{half}],"data_offsets":[0,{half}]}},
                "b":{{"dtype":"U8","shape":[{0}],"data_offsets":[{half},{1}]}}}}"#,
            half - 1,
            usize::MAX
        );
        assert!(refusal(&header, 100).contains("but 100 bytes follow"));
        let product =
            r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
        assert!(refusal(product, 0).contains("tensor a"));
    }

    #[test]
    fn sizes_that_only_overflow_together_are_refused() {
        // The number of bits of each tensor fits in a usize; the sum with the header's length does
        // not.
        let each = (1usize << 61) - 1;
        let mut header = String::from("{");
        for i in 0..8 {
            let (start, end) = (i * each, (i + 1) * each);
            header += &format!(
                r#""t{i}":{{"dtype":"U8","shape":[{each}],"data_offsets":[{start},{end}]}},"#
            );
        }
        let (start, end) = (8 * each, usize::MAX);
        header += &format!(r#""z":{{"dtype":"U8","shape":[7],"data_offsets":[{start},{end}]}}}}"#);
        assert!(refusal(&header, 0).contains("but 0 bytes follow"));
    }

    #[test]
    fn short_files_are_refused() {
        for bytes in [&b""[..], b"1234567", &[0xff; 20], &200u64.to_le_bytes()] {
            assert!(read_header(bytes).is_err());
        }
    }
}
