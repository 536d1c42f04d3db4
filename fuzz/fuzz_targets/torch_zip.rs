//! A PyTorch checkpoint, and its pickle by itself: no panic, bounded memory, and every accepted
//! tensor lies within the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use seqstream::weights::{check_pickle, read_torch_index};

fuzz_target!(|bytes: &[u8]| {
    // By itself the pickle is not behind the archive's checksum.
    if let Err(malformed) = check_pickle(bytes) {
        assert!(!malformed.what.is_empty() && !malformed.hint.is_empty());
    }
    match read_torch_index(bytes) {
        Ok(file) => {
            for t in file.tensors {
                let Ok(range) = t.place else { continue };
                assert!(range.start <= range.end && range.end <= bytes.len());
                let values: usize = t.shape.iter().product();
                assert_eq!(Some(range.len()), t.dtype.size().map(|size| values * size));
            }
        }
        Err(malformed) => assert!(!malformed.what.is_empty() && !malformed.hint.is_empty()),
    }
});
