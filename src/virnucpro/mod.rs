//! The results of VirNucPro: scores of fragments, verdicts on contigs, and its files.
//!
//! | file | what it does |
//! |---|---|
//! | `classifier` | reads a classifier from any of its layouts, and scores vectors: [`Classifier`] |
//! | `texts` | writes scores as the two programs write them: [`Style`] |
//! | `contigs` | judges a contig by its chunks: [`ContigRule`] |
//! | `tables` | writes the tables of a finished job: [`TableWriter`] |
//! | `vectors` | writes vectors in the three layouts of VirNucPro's `.pt` files: [`VectorFiles`] |
//! | `error` | [`ClassifierError`], [`TableError`] |
//!
//! Class 0 is "others" and gives `score1`; class 1 is "virus" and gives `score2`.
//!
//! The original program is Li-Jing-1997/VirNucPro (commit 0f93f27), the fork is
//! broadinstitute/virnucpro-broad (commit a8d3e4b), and the rule per contig is that of the program
//! `virnucpro_contigs` of viral-ngs.

mod classifier;
mod contigs;
mod error;
mod tables;
mod texts;
mod vectors;

pub use classifier::Classifier;
pub use contigs::{Call, ChunkScores, ContigRule, Scores, Tier, Verdict, natural_order};
pub use error::{ClassifierError, TableError};
pub use tables::{ContigFacts, FragmentScore, TABLE_FILES, TableCounts, TableOptions, TableWriter};
pub use texts::Style;
pub use vectors::{ROWS_PER_FILE, VectorFiles, VectorRow};
