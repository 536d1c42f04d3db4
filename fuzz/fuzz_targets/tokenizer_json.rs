//! Any bytes as a tokenizer.json; where it is accepted, text is encoded with it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use seqstream::sequence::Tokenizer;

fuzz_target!(|data: &[u8]| {
    match Tokenizer::from_json("fuzz", data) {
        Ok(tokenizer) => {
            let mut ids = Vec::new();
            for text in [
                &b"ACGTTGCAACGTNNacgt[MASK]A-C \xff\xc3"[..],
                b"AAAAAAAACACACACGGG",
                data,
            ] {
                ids.clear();
                tokenizer.encode(text, &mut ids);
                assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            }
        }
        Err(e) => assert!(!e.to_string().is_empty() && e.remedy().is_some()),
    }
});
