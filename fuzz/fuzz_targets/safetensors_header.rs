//! The header of a safetensors file: no panic, and every accepted tensor lies within the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use seqstream::weights::read_safetensors_header;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // The same bytes as a header of the right length, so that the fuzzer need not find the length,
    // before as much data as a small header can describe.
    let header = &bytes[..bytes.len().min(4096)];
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    for data in [0, 4, 8, 64] {
        file.resize(8 + header.len() + data, 0);
        check(&file);
    }
});

fn check(file: &[u8]) {
    match read_safetensors_header(file) {
        Ok(tensors) => {
            for t in tensors {
                let range = t.place.expect("safetensors have no strides");
                assert!(range.start <= range.end && range.end <= file.len());
                if let Some(size) = t.dtype.size() {
                    let values: usize = t.shape.iter().product();
                    assert_eq!(range.len(), values * size);
                }
            }
        }
        Err(malformed) => assert!(!malformed.what.is_empty() && !malformed.hint.is_empty()),
    }
}
