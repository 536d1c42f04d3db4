//! Holds the kernels that `build.rs` compiled and embedded.

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Returns the fatbin of a source in `kernels/`, by the source's name without `.cu`; `None` in a
/// build without nvcc.
pub fn fatbin(name: &str) -> Option<&'static [u8]> {
    FATBINS
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, image)| *image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_nvcc_every_source_has_its_fatbin_and_without_none() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let sources = std::fs::read_dir(folder).unwrap();
        let sources = sources.map(|e| e.unwrap().path());
        let sources: Vec<_> = sources
            .filter(|p| p.extension().is_some_and(|e| e == "cu"))
            .collect();
        assert!(!sources.is_empty());
        for source in &sources {
            let image = fatbin(source.file_stem().unwrap().to_str().unwrap());
            assert_eq!(image.is_some(), NVCC.is_some(), "{}", source.display());
            // Every fatbin begins with this magic number.
            assert!(image.is_none_or(|i| i.starts_with(&[0x50, 0xed, 0x55, 0xba])));
        }
        assert_eq!(ARCHITECTURES.is_empty(), NVCC.is_none());
        // Every nvcc that builds this program supports Hopper, unless the user chose other
        // architectures.
        let chosen = option_env!("SEQSTREAM_CUDA_ARCHITECTURES").is_some();
        assert!(NVCC.is_none() || chosen || ARCHITECTURES.contains(&"sm_90a"));
    }
}
