//! What a job of `seqstream virnucpro` has beyond other jobs: two models, fragments of contigs, and
//! the files of its shards.

use serde::{Deserialize, Serialize};

use super::ModelSpec;

/// The scores of the classifier, `[rows, 2]`: others, virus.
pub const SCORES_FILE: &str = "scores.npy";
/// The vectors of both models side by side, the DNA model's first.
pub const MERGED_FILE: &str = "merged.npy";
/// The vectors of the DNA model.
pub const DNA_FILE: &str = "dna.npy";
/// The vectors of the protein model.
pub const PROTEIN_FILE: &str = "protein.npy";
/// The index of the fragments, a line each.
pub const FRAGMENTS_FILE: &str = "fragments.tsv";
/// The contigs whose chunks are in the shard, a line each.
pub const CONTIGS_FILE: &str = "contigs.tsv";
/// The nucleotides of the fragments, as FASTA.
pub const NUCLEOTIDE_FILE: &str = "nucleotide.fa";
/// The proteins of the fragments, as FASTA.
pub const AMINO_ACID_FILE: &str = "protein.faa";

/// All names of files that only these jobs have in a shard.
pub(crate) const FILES: [&str; 8] = [
    SCORES_FILE,
    MERGED_FILE,
    DNA_FILE,
    PROTEIN_FILE,
    FRAGMENTS_FILE,
    CONTIGS_FILE,
    NUCLEOTIDE_FILE,
    AMINO_ACID_FILE,
];

/// The names of the files that these jobs have beside their shards.
const BESIDE: [&str; 6] = [
    FRAGMENTS_FILE,
    "prediction_results.txt",
    "prediction_results_highestscore.csv",
    CONTIGS_FILE,
    "virus.bedgraph",
    "no_fragment.tsv",
];
/// The ends of the names of files and folders that begin with the name of the input.
const BESIDE_ENDS: [&str; 5] = [
    "_identified_nucleotide.fa",
    "_identified_protein.faa",
    "_nucleotide",
    "_protein",
    "_merged",
];

/// Whether such a job may have a file or a folder of this name beside its shards.
pub(crate) fn is_beside_shards(name: &str) -> bool {
    BESIDE.contains(&name) || BESIDE_ENDS.iter().any(|end| name.ends_with(end))
}

/// The name of the count of the chunks of a shard. The records of these jobs are chunks, and each
/// has up to six rows. A contig without letters counts as one chunk.
pub const CHUNKS_COUNT: &str = "chunks";

/// What a job of `seqstream virnucpro` was asked to do, beyond the fields that all jobs have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VirnucproSpec {
    /// The most letters of a chunk.
    pub chunk: usize,
    /// Which models describe a fragment.
    pub features: Features,
    /// The protein model, where both models are used; `model` is then the DNA model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protein_model: Option<ModelSpec>,
    /// BLAKE3 hash, in hex, of the classifier's file.
    pub classifier: Option<String>,
    /// Which vectors are kept.
    pub vectors: Vectors,
    /// Whether the fragments themselves are kept.
    pub fragments: bool,
    /// Whether the vectors are also written in the original's files.
    pub torch_files: bool,
    /// What becomes of contigs that share a name: "error" or "suffix".
    pub duplicate_ids: String,
    /// How the tables are made. This decides nothing in a shard.
    pub tables: TablesSpec,
}

/// Which models describe a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Features {
    /// The DNA model and the protein model.
    Both,
    /// The DNA model alone.
    Dna,
    /// The protein model alone.
    Protein,
}

/// Which vectors a job keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vectors {
    /// None: only the scores.
    None,
    /// One array, in which the vectors of both models are side by side.
    Merged,
    /// One array per model.
    All,
}

/// How the tables are made from the scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TablesSpec {
    /// The texts of the original program ("original") or of the production fork ("broad").
    pub style: String,
    /// The numbers of the rule for contigs, by their names.
    pub rule: std::collections::BTreeMap<String, f64>,
}

impl VirnucproSpec {
    /// Returns the arrays of a shard: the name and the width of each.
    pub(crate) fn arrays(&self, model: &ModelSpec) -> Vec<(String, usize)> {
        let first = model.config.hidden;
        let second = self.protein_model.as_ref().map_or(0, |m| m.config.hidden);
        let mut arrays = Vec::new();
        if self.classifier.is_some() {
            arrays.push((SCORES_FILE.to_owned(), 2));
        }
        match (self.vectors, self.features) {
            (Vectors::None, _) => {}
            (Vectors::Merged, _) => arrays.push((MERGED_FILE.to_owned(), first + second)),
            (Vectors::All, Features::Both) => {
                arrays.push((DNA_FILE.to_owned(), first));
                arrays.push((PROTEIN_FILE.to_owned(), second));
            }
            (Vectors::All, Features::Dna) => arrays.push((DNA_FILE.to_owned(), first)),
            (Vectors::All, Features::Protein) => arrays.push((PROTEIN_FILE.to_owned(), first)),
        }
        arrays
    }

    /// Returns the names of the texts of a shard.
    pub(crate) fn texts(&self) -> Vec<&'static str> {
        match self.fragments {
            true => vec![
                CONTIGS_FILE,
                FRAGMENTS_FILE,
                NUCLEOTIDE_FILE,
                AMINO_ACID_FILE,
            ],
            false => vec![CONTIGS_FILE, FRAGMENTS_FILE],
        }
    }
}
