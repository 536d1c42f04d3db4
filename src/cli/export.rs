//! `seqstream export`: writes a complete output into the files that other programs load.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::progress::count;
use super::{Console, Failure};
use seqstream::export::{self, Content, ExportOptions, Format, Key};

/// Printed after the help of `seqstream export`.
pub const EXPORT_EXAMPLES: &str = "\
Examples:
  UniProt's per-protein.h5, keyed by accession, for h5py and ProtSpace:
    seqstream export embeddings --to h5 --key accession per-protein.h5

  A table for pandas, polars, duckdb or Spark:
    seqstream export embeddings --to parquet embeddings.parquet

  The files of fair-esm's esm-extract, one per sequence:
    seqstream export embeddings --to pt embeddings-pt

  The states of every residue:
    seqstream export states --to h5 --per-token --layer -1 per-residue.h5";

/// The arguments of `seqstream export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Output directory of a complete job, or of a complete share of a job
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// File to write (for pt: folder), which must not exist
    #[arg(value_name = "DEST")]
    pub dest: PathBuf,
    /// Format; h5 and parquet need a build with the features export-h5 and export-parquet
    #[arg(long, value_name = "FORMAT")]
    pub to: FormatArg,
    /// What names a record: its `id`, or the `accession` in an id such as sp|P12345|NAME
    #[arg(long, value_name = "WHAT", default_value = "id")]
    pub key: KeyArg,
    /// Layer, needed if the output has several (pt: all by default); -1 is the last one
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub layer: Option<i64>,
    /// Pooling, needed if the output has several (pt: all by default)
    #[arg(long, value_name = "HOW", conflicts_with = "per_token")]
    pub pool: Option<String>,
    /// Export the states of every token in place of one row per sequence
    #[arg(long)]
    pub per_token: bool,
}

/// The values of `--to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum FormatArg {
    #[value(alias = "hdf5")]
    H5,
    Parquet,
    Pt,
    Npz,
    Csv,
}

/// The values of `--key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum KeyArg {
    Id,
    Accession,
}

/// Runs `seqstream export`.
pub fn run(args: &ExportArgs, console: &Console) -> Result<(), Failure> {
    let options = ExportOptions {
        format: match args.to {
            FormatArg::H5 => Format::H5,
            FormatArg::Parquet => Format::Parquet,
            FormatArg::Pt => Format::Pt,
            FormatArg::Npz => Format::Npz,
            FormatArg::Csv => Format::Csv,
        },
        key: match args.key {
            KeyArg::Id => Key::Id,
            KeyArg::Accession => Key::Accession,
        },
        layer: args.layer,
        pool: args.pool.clone(),
        per_token: args.per_token,
    };
    let exported = export::export(&args.out, &args.dest, &options, &mut |done, all| {
        console.detail(&format!("{}/{} sequences", count(done), count(all)));
    })?;
    let parts = exported.parts.iter().map(|part| match &part.content {
        Content::Pooled(pool) => format!("layer {} ({pool})", part.layer),
        Content::States => format!("layer {} (every token)", part.layer),
    });
    let tokens = exported.tokens.map_or_else(String::new, |n| {
        format!(" with the states of {} tokens", count(n))
    });
    console.say(&format!(
        "exported {} sequences{tokens}, {}, into {}",
        count(exported.records),
        parts.collect::<Vec<_>>().join(", "),
        args.dest.display()
    ));
    Ok(())
}
