//! `--trace`: opens the trace before anything else runs, and completes it at the end.

use std::path::{Path, PathBuf};

use super::progress::count;
use super::{Console, Failure};
use seqstream::trace::{Counts, Trace};

/// Returns the file that gets the trace in the project's own schema, beside `path`: `t.json` has
/// `t.seqstream.json`.
fn own(path: &Path) -> PathBuf {
    let mut name = match path.extension() {
        Some(extension) if extension == "json" => path.with_extension(""),
        _ => path.to_path_buf(),
    }
    .into_os_string();
    name.push(".seqstream.json");
    name.into()
}

/// Runs `run` with the trace that the user asked for, or with none.
///
/// The error of `run` is returned, whatever becomes of the trace.
pub fn with(
    path: Option<&Path>,
    console: &Console,
    run: impl FnOnce(&Trace) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Some(path) = path else {
        return run(&Trace::off());
    };
    let own = own(path);
    let trace = Trace::to_files(path, &own)?;
    let ran = run(&trace);
    match (trace.finish(), ran) {
        (Ok(Counts { recorded, dropped }), ran) => {
            console.say(&format!(
                "trace: {} intervals in {} and {}",
                count(recorded),
                path.display(),
                own.display()
            ));
            if dropped > 0 {
                console.warn(&format!(
                    "{} intervals are missing in the trace, because there was no place for them",
                    count(dropped)
                ));
            }
            ran
        }
        (Err(error), Ok(())) => Err(error.into()),
        (Err(error), Err(failure)) => {
            console.warn(&error.to_string());
            Err(failure)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_file_lies_beside_the_first() {
        for (given, beside) in [
            ("t.json", "t.seqstream.json"),
            ("a.b/t", "a.b/t.seqstream.json"),
            ("t.trace", "t.trace.seqstream.json"),
            ("t.a.json", "t.a.seqstream.json"),
        ] {
            assert_eq!(own(Path::new(given)), Path::new(beside), "{given}");
        }
    }
}
