//! Tells the format of a weights file by its bytes, and names a file that holds no weights.

use std::io::Read;

use super::stored::{Malformed, StoredTensor};
use super::torch::{FairEsmSettings, TorchFile};
use super::{safetensors, torch};
use crate::untrusted::Shown;

/// How many bytes of a file are looked at to tell what it is.
const LOOKED_AT: usize = 1024;

/// How many compressed bytes are read to tell what they hold.
const COMPRESSED: usize = 1 << 16;

/// Reads the index of a weights file of either format. The first bytes tell which format it is.
///
/// # Errors
/// [`Malformed`] if the bytes are not a weights file, or are a malformed one. Files of common other
/// kinds are named.
pub fn read_index(file: &[u8]) -> Result<TorchFile, Malformed> {
    read_with(file, torch::read_index)
}

/// Reads the index of a small classifier of either format, which may be a module that was pickled
/// as a whole.
///
/// # Errors
/// Fails as [`read_index`] does.
pub fn read_classifier_index(file: &[u8]) -> Result<Vec<StoredTensor>, Malformed> {
    Ok(read_with(file, torch::read_classifier)?.tensors)
}

/// Reads an index: `read_torch` reads that of a PyTorch file.
fn read_with(
    file: &[u8],
    read_torch: impl Fn(&[u8]) -> Result<TorchFile, Malformed>,
) -> Result<TorchFile, Malformed> {
    // A safetensors file begins with the length of its header, so its first bytes can be any other
    // format's. The header itself begins with a brace.
    if file.get(8) != Some(&b'{') {
        if torch::is_archive(file) || file.starts_with(&[0x80]) {
            return read_torch(file);
        }
        if let Some((what, hint)) = other_kind(file) {
            return Err(Malformed::new(what, hint));
        }
    } else if torch::is_archive(file) {
        return read_torch(file);
    }
    let tensors = safetensors::read_header(file)?;
    Ok(TorchFile {
        tensors,
        settings: FairEsmSettings::default(),
    })
}

const SAFETENSORS_OR_TORCH: &str = "give the model in safetensors format or as a PyTorch checkpoint (model.safetensors, pytorch_model.bin)";
const IS_AN_INPUT: &str =
    "sequences are the input of a job; the model is a folder or a file of weights";
const NO_WEIGHTS: &str = "give a model folder, or a .safetensors, .bin or fair-esm .pt file; the model's folder holds it";

/// Names a file that is no weights file, and gives the remedy. Returns `None` for bytes of no known
/// kind.
fn other_kind(file: &[u8]) -> Option<(String, &'static str)> {
    let start = file.get(..LOOKED_AT).unwrap_or(file);
    if start.starts_with(b"version https://git-lfs") {
        let what = "this is a Git LFS pointer and not the file it points to";
        return Some((what.into(), "run `git lfs pull` in the model's folder"));
    }
    const BINARY: [(&[u8], &str, &str); 14] = [
        (b"\x28\xb5\x2f\xfd", "a zstd file", "decompress it: zstd -d"),
        (b"BZh", "a bzip2 file", "decompress it: bunzip2"),
        (b"\xfd7zXZ\0", "an xz file", "decompress it: xz -d"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it: 7z x"),
        (b"Rar!", "a RAR archive", "unpack it: unrar x"),
        (
            b"\x89HDF\r\n",
            "an HDF5 file, such as TensorFlow's tf_model.h5",
            SAFETENSORS_OR_TORCH,
        ),
        (
            b"GGUF",
            "a GGUF file, as llama.cpp reads",
            SAFETENSORS_OR_TORCH,
        ),
        (
            b"GGML",
            "a GGML file, as llama.cpp reads",
            SAFETENSORS_OR_TORCH,
        ),
        (b"\x93NUMPY", "a NumPy array", SAFETENSORS_OR_TORCH),
        (b"PAR1", "a Parquet file", NO_WEIGHTS),
        (b"SQLite format 3\0", "an SQLite database", NO_WEIGHTS),
        (b"%PDF", "a PDF document", NO_WEIGHTS),
        (b"\x89PNG", "a picture", NO_WEIGHTS),
        (b"\x7fELF", "a program", NO_WEIGHTS),
    ];
    let found = BINARY.iter().find(|(magic, ..)| start.starts_with(magic));
    if let Some((_, name, hint)) = found {
        return Some((format!("this is {name}, and no weights file"), hint));
    }
    if is_tar(start) {
        let what = "this is a tar archive, and no weights file";
        return Some((
            what.into(),
            "unpack it: tar xf, and give the model folder that it holds",
        ));
    }
    if start.starts_with(b"\x1f\x8b") {
        return Some(compressed(file));
    }
    text(start)
}

fn is_tar(start: &[u8]) -> bool {
    start.get(257..262) == Some(b"ustar")
}

/// Names a gzip file by the first bytes of what it holds.
fn compressed(file: &[u8]) -> (String, &'static str) {
    let mut inside = Vec::new();
    // The bytes up to the place where the data is damaged are enough, or none are.
    let _ = flate2::read::GzDecoder::new(file.get(..COMPRESSED).unwrap_or(file))
        .take(LOOKED_AT as u64)
        .read_to_end(&mut inside);
    if is_tar(&inside) {
        let what = "this is a tar archive compressed with gzip, and no weights file";
        return (
            what.into(),
            "unpack it: tar xzf, and give the model folder that it holds",
        );
    }
    match text(&inside) {
        Some((what, hint)) => (format!("{what} (compressed with gzip)"), hint),
        None => (
            "this file is compressed with gzip, and weights are mapped as they are".into(),
            "decompress it: gunzip",
        ),
    }
}

/// Names a text file by how it begins.
fn text(start: &[u8]) -> Option<(String, &'static str)> {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    // The end may fall into a character.
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(start.get(..error.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    let text = text.trim_start();
    if text.is_empty() || !text.chars().all(is_text) {
        return None;
    }
    let line = text.lines().next().unwrap_or_default();
    let named = |name: &str| format!("this is {name}, and no weights file");
    Some(match *text.as_bytes().first()? {
        b'<' => (
            "this is a web page (HTML or XML), and no weights file".into(),
            "download the model again, from the address of the file itself",
        ),
        b'>' => (named("a FASTA file"), IS_AN_INPUT),
        b'@' => (named("a FASTQ file"), IS_AN_INPUT),
        b'{' | b'[' => (
            named("a JSON file"),
            "give the folder that it is in; of JSON files, only the index of a sharded checkpoint is read",
        ),
        _ if line.starts_with("##gff") => (named("a GFF file"), NO_WEIGHTS),
        _ if line.contains('\t') => (named("a table (TSV)"), NO_WEIGHTS),
        _ if line.contains(',') => (named("a table (CSV)"), NO_WEIGHTS),
        _ => (
            format!(
                "this is a text file that begins with \"{}\", and no weights file",
                Shown(line)
            ),
            NO_WEIGHTS,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(file: &[u8]) -> String {
        let malformed = read_index(file).unwrap_err();
        assert!(!malformed.hint.is_empty());
        malformed.what
    }

    #[test]
    fn bytes_of_no_known_kind_are_a_damaged_safetensors_file() {
        assert!(what(b"").contains("0 bytes are too few"));
        assert!(what(b"\x01\x02").contains("2 bytes are too few"));
        assert!(what(b"\xff\xfe\0\0\0\0\0\0\0\0").contains("header"));
    }

    #[test]
    fn a_header_whose_length_looks_like_another_format_is_read() {
        // The length 0x203c ("< " and zeros), 0x..50 ("P" and zeros) and so on.
        for length in [0x3c_u64, 0x203c, 0x203e, 0x80, 0x8b1f, 0x2040] {
            let mut file = length.to_le_bytes().to_vec();
            file.extend(format!("{{{:>1$}", "}", length as usize - 1).bytes());
            assert_eq!(read_index(&file).unwrap().tensors, [], "{length:#x}");
        }
    }
}
