//! What `seqstream --version` says: the version, and what this program was built from and for.

use std::sync::OnceLock;

use seqstream::backend;
use seqstream::backend::cuda::kernels;

/// Returns the text of `--version`, which `-V` cuts to the version.
pub fn long() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        format!(
            "{}\ncommit: {}\nkernels: {}\nSIMD: {} on this processor\ntarget: {}-{}",
            env!("CARGO_PKG_VERSION"),
            seqstream::COMMIT,
            cuda_kernels(kernels::NVCC, kernels::ARCHITECTURES),
            backend::simd_name(),
            std::env::consts::ARCH,
            std::env::consts::OS,
        )
    })
}

/// Returns the date of the commit, if the build knows it.
pub fn date() -> Option<&'static str> {
    date_of(seqstream::COMMIT)
}

fn date_of(commit: &str) -> Option<&str> {
    let (_, rest) = commit.split_once('(')?;
    Some(rest.split_once(')')?.0)
}

fn cuda_kernels(nvcc: Option<&str>, architectures: &[&str]) -> String {
    match nvcc {
        Some(nvcc) => format!("{} (nvcc {nvcc})", architectures.join(", ")),
        None => "none, so this program computes on the CPU only".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_that_of_the_commit() {
        assert_eq!(
            date_of("0123 (2026-01-02) with changes"),
            Some("2026-01-02")
        );
        assert_eq!(date_of("0123"), None);
        assert_eq!(date_of("unknown"), None);
    }

    #[test]
    fn kernels_are_named_by_their_architectures() {
        let some = cuda_kernels(Some("13.0"), &["sm_80", "sm_90a"]);
        assert_eq!(some, "sm_80, sm_90a (nvcc 13.0)");
        assert!(cuda_kernels(None, &[]).starts_with("none"));
    }
}
