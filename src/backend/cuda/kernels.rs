//! Holds the kernels that `build.rs` compiled and embedded.

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Returns the fatbin of a source below `kernels/`, by the name of its file without `.cu`; `None` in
/// a build without nvcc.
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
        let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")];
        let mut sources = Vec::new();
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder)
                .unwrap()
                .map(|e| e.unwrap().path())
            {
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "cu") {
                    sources.push(path);
                }
            }
        }
        assert!(sources.len() > 20, "{sources:?}");
        for source in &sources {
            let image = fatbin(source.file_stem().unwrap().to_str().unwrap());
            assert_eq!(image.is_some(), NVCC.is_some(), "{}", source.display());
            // Every fatbin begins with this magic number.
            assert!(image.is_none_or(|i| i.starts_with(&[0x50, 0xed, 0x55, 0xba])));
        }
        assert_eq!(FATBINS.len(), NVCC.map_or(0, |_| sources.len()));
        assert_eq!(ARCHITECTURES.is_empty(), NVCC.is_none());
        // Every nvcc that builds this program supports Hopper, unless the user chose other
        // architectures.
        let chosen = option_env!("SEQSTREAM_CUDA_ARCHITECTURES").is_some();
        assert!(NVCC.is_none() || chosen || ARCHITECTURES.contains(&"sm_90a"));
    }
}
