//! Makes the tables of a finished job of `seqstream virnucpro` from its shards, so that a job that
//! was interrupted, and one that was merged from shares, has the same tables as any other.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::fragments::{CONTIGS_HEADER, FRAGMENTS_HEADER};
use super::{JobError, Share};
use crate::output::{
    AMINO_ACID_FILE, CONTIGS_FILE, DNA_FILE, FRAGMENTS_FILE, Features, JobDir, JobSpec,
    NUCLEOTIDE_FILE, OutputError, PROTEIN_FILE, SCORES_FILE, TablesSpec, VirnucproSpec,
};
use crate::sequence::Frame;
use crate::virnucpro::{
    ContigFacts, ContigRule, FragmentScore, Style, TableCounts, TableOptions, TableWriter,
    VectorFiles, VectorRow,
};

/// The table of contigs without a fragment, which a job without a classifier has, too.
const NO_FRAGMENT_FILE: &str = "no_fragment.tsv";

/// The bytes of the header of a .npy file that this program writes.
const NPY_HEADER: u64 = 128;

/// The names of the numbers of the rule for contigs.
const RULE: [&str; 8] = [
    "call_delta",
    "high_delta",
    "confident_above",
    "confident_below",
    "ambiguous_above",
    "least_viral_share",
    "least_nonviral_share",
    "least_chunks",
];

/// Returns how job.json writes the style and the rule of the tables.
pub fn rule_spec(style: Style, rule: &ContigRule) -> TablesSpec {
    let numbers = [
        rule.call_delta,
        rule.high_delta,
        rule.confident_above,
        rule.confident_below,
        rule.ambiguous_above,
        rule.least_viral_share,
        rule.least_nonviral_share,
        rule.least_chunks as f64,
    ];
    TablesSpec {
        style: match style {
            Style::Original => "original",
            Style::Broad => "broad",
        }
        .into(),
        rule: RULE.map(str::to_owned).into_iter().zip(numbers).collect(),
    }
}

/// Returns the rule that job.json describes. A number that it lacks is that of the default rule.
pub fn rule_of(spec: &TablesSpec) -> ContigRule {
    let default = ContigRule::default();
    let number = |name: &str, default: f64| spec.rule.get(name).copied().unwrap_or(default);
    ContigRule {
        call_delta: number("call_delta", default.call_delta),
        high_delta: number("high_delta", default.high_delta),
        confident_above: number("confident_above", default.confident_above),
        confident_below: number("confident_below", default.confident_below),
        ambiguous_above: number("ambiguous_above", default.ambiguous_above),
        least_viral_share: number("least_viral_share", default.least_viral_share),
        least_nonviral_share: number("least_nonviral_share", default.least_nonviral_share),
        least_chunks: number("least_chunks", default.least_chunks as f64) as usize,
    }
}

/// Makes the files that a job has beside its shards, from the shards `blocks`. A share of a job
/// has none, since a contig may go on in another share. Returns what the tables hold, if there is
/// a classifier.
pub(crate) fn make_tables(
    dir: &JobDir,
    spec: &JobSpec,
    blocks: &[u64],
) -> Result<Option<TableCounts>, JobError> {
    let Some(virnucpro) = &spec.virnucpro else {
        return Ok(None);
    };
    if spec.share != Share::ALL.to_string() {
        return Ok(None);
    }
    join(
        dir,
        blocks,
        FRAGMENTS_FILE,
        FRAGMENTS_FILE,
        FRAGMENTS_HEADER,
    )?;
    if virnucpro.fragments {
        let base = base_name(spec);
        for (name, end) in [
            (NUCLEOTIDE_FILE, "_identified_nucleotide.fa"),
            (AMINO_ACID_FILE, "_identified_protein.faa"),
        ] {
            join(dir, blocks, name, &format!("{base}{end}"), "")?;
        }
    }
    if virnucpro.torch_files {
        vectors(dir, spec, virnucpro, blocks)?;
    }
    match virnucpro.classifier {
        None => {
            without_fragment(dir, blocks)?;
            Ok(None)
        }
        Some(_) => tables(dir, virnucpro, blocks).map(Some),
    }
}

/// Returns the beginning of the original's file names: the name of the first input up to its
/// first `.fa`.
pub(crate) fn base_name(spec: &JobSpec) -> String {
    let name = spec.inputs.first().map_or("", |input| input.name.as_str());
    let base = name.split(".fa").next().unwrap_or(name);
    match base {
        "" | "-" => "stdin".into(),
        base => base.into(),
    }
}

/// Joins a text of all shards into one file beside the shards. Each text begins with `header`,
/// which the joined file has once.
fn join(
    dir: &JobDir,
    blocks: &[u64],
    name: &str,
    target: &str,
    header: &str,
) -> Result<(), JobError> {
    let path = dir.path().join(target);
    dir.write_atomic(target, |out| {
        let written = |e| OutputError::io("write", &path, None, e);
        out.write_all(header.as_bytes()).map_err(written)?;
        for &block in blocks {
            let mut text = Text::open(dir.shard(block).join(name), header)?;
            std::io::copy(&mut text.lines, out).map_err(written)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Writes the table of contigs without a fragment.
fn without_fragment(dir: &JobDir, blocks: &[u64]) -> Result<(), JobError> {
    let path = dir.path().join(NO_FRAGMENT_FILE);
    let mut failed = None;
    dir.write_atomic(NO_FRAGMENT_FILE, |out| {
        let written = |e| OutputError::io("write", &path, None, e);
        out.write_all(b"contig\tlength\treason\n")
            .map_err(written)?;
        let mut contigs = Contigs::default();
        let mut each = |contig: &Contig| -> Result<(), OutputError> {
            if contig.fragments > 0 {
                return Ok(());
            }
            let reason = match contig.length {
                0 => "empty",
                1 | 2 => "shorter than a codon",
                _ => "no open frame",
            };
            writeln!(out, "{}\t{}\t{reason}", contig.name, contig.length).map_err(written)
        };
        for &block in blocks {
            let mut lines = Text::open(dir.shard(block).join(CONTIGS_FILE), CONTIGS_HEADER)?;
            while let Some(part) = lines.next_line(contig)? {
                if let Some(whole) = contigs.add(part, &lines.path)? {
                    each(&whole)?;
                }
            }
        }
        failed = contigs.open.take();
        Ok(())
    })?;
    complete(failed)
}

/// Makes the tables of a job with a classifier.
fn tables(
    dir: &JobDir,
    virnucpro: &VirnucproSpec,
    blocks: &[u64],
) -> Result<TableCounts, JobError> {
    let options = TableOptions {
        style: match virnucpro.tables.style.as_str() {
            "broad" => Style::Broad,
            _ => Style::Original,
        },
        rule: rule_of(&virnucpro.tables),
        chunk: virnucpro.chunk,
    };
    let mut tables = TableWriter::new(dir.path(), &options)?;
    let mut contigs = Contigs::default();
    for &block in blocks {
        let shard = dir.shard(block);
        let mut lines = Text::open(shard.join(CONTIGS_FILE), CONTIGS_HEADER)?;
        let mut index = Text::open(shard.join(FRAGMENTS_FILE), FRAGMENTS_HEADER)?;
        let mut scores = Rows::open(shard.join(SCORES_FILE), 2)?;
        while let Some(part) = lines.next_line(contig)? {
            for _ in 0..part.fragments {
                let &[others, virus] = scores.next()? else {
                    return Err(malformed(&scores.path, "its rows have not two scores").into());
                };
                let added = index.next_line(|fields| {
                    let fragment = FragmentScore {
                        scores: [others, virus],
                        ..fragment(fields)?
                    };
                    Some(tables.fragment(&fragment))
                })?;
                added.ok_or_else(|| malformed(&index.path, "it has too few lines"))??;
            }
            if let Some(whole) = contigs.add(part, &lines.path)? {
                tables.contig(&ContigFacts {
                    name: &whole.name,
                    length: whole.length,
                    chunks: whole.chunks,
                    fragments: whole.fragments,
                })?;
            }
        }
    }
    complete(contigs.open)?;
    Ok(tables.finish()?)
}

/// Writes the vectors in the original's files.
fn vectors(
    dir: &JobDir,
    spec: &JobSpec,
    virnucpro: &VirnucproSpec,
    blocks: &[u64],
) -> Result<(), JobError> {
    let first = spec.model.config.hidden;
    let second = virnucpro.protein_model.as_ref().map(|m| m.config.hidden);
    let (dna, protein) = match virnucpro.features {
        Features::Both => (Some(first), second),
        Features::Dna => (Some(first), None),
        Features::Protein => (None, Some(first)),
    };
    let mut files = VectorFiles::new(dir.path(), &base_name(spec));
    for &block in blocks {
        let shard = dir.shard(block);
        let open = |name: &str, width: Option<usize>| {
            width
                .map(|width| Rows::open(shard.join(name), width))
                .transpose()
        };
        let (mut dna, mut protein) = (open(DNA_FILE, dna)?, open(PROTEIN_FILE, protein)?);
        let mut index = Text::open(shard.join(FRAGMENTS_FILE), FRAGMENTS_HEADER)?;
        while let Some((id, residues)) = index.next_line(id_and_residues)? {
            files
                .push(&VectorRow {
                    id: &id,
                    residues,
                    dna: dna.as_mut().map(Rows::next).transpose()?,
                    protein: protein.as_mut().map(Rows::next).transpose()?,
                })
                .map_err(JobError::Vectors)?;
        }
    }
    files.finish().map_err(JobError::Vectors)?;
    Ok(())
}

/// Reads the id and the number of residues of a line of a shard's fragments.tsv.
fn id_and_residues(mut fields: Fields<'_>) -> Option<(String, usize)> {
    let id = fields.next()?.to_owned();
    Some((id, fields.nth(8)?.parse().ok()?))
}

fn complete(open: Option<Contig>) -> Result<(), JobError> {
    match open {
        None => Ok(()),
        Some(contig) => Err(JobError::Internal(format!(
            "the last chunk of contig {} is in no shard",
            contig.name
        ))),
    }
}

fn malformed(path: &Path, reason: &str) -> OutputError {
    OutputError::Malformed {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}

/// The fields of a line.
type Fields<'a> = std::str::Split<'a, char>;

/// A contig, or the part of it that is in one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contig {
    name: String,
    length: u64,
    chunks: u64,
    first: u64,
    last: u64,
    fragments: u64,
}

/// Reads a line of a shard's contigs.tsv.
fn contig(mut fields: Fields<'_>) -> Option<Contig> {
    let name = fields.next()?.to_owned();
    let mut number = || fields.next()?.parse().ok();
    Some(Contig {
        name,
        length: number()?,
        chunks: number()?,
        first: number()?,
        last: number()?,
        fragments: number()?,
    })
}

/// Reads a line of a shard's fragments.tsv. The scores are not in it.
fn fragment(mut fields: Fields<'_>) -> Option<FragmentScore<'_>> {
    let _id = fields.next()?;
    let contig = fields.next()?;
    let chunk = fields.next()?.parse().ok()?;
    let frame = fields.next()?;
    let frame = Frame::ALL.into_iter().find(|f| f.to_string() == frame)?;
    let _strand = fields.next()?;
    Some(FragmentScore {
        contig,
        chunk,
        frame,
        chunk_start: fields.next()?.parse().ok()?,
        chunk_end: fields.next()?.parse().ok()?,
        scores: [0.0; 2],
    })
}

/// Joins the parts of contigs that are in several shards.
#[derive(Default)]
struct Contigs {
    /// The contig whose last chunk has not come yet.
    open: Option<Contig>,
}

impl Contigs {
    /// Adds the next part, and returns its contig if it is whole.
    fn add(&mut self, part: Contig, path: &Path) -> Result<Option<Contig>, OutputError> {
        let whole = match self.open.take() {
            None if part.first <= 1 => part,
            Some(open) if open.name == part.name && part.first == open.last + 1 => Contig {
                last: part.last,
                fragments: open.fragments + part.fragments,
                ..open
            },
            _ => {
                return Err(malformed(
                    path,
                    "its contigs do not follow those before them",
                ));
            }
        };
        match whole.last >= whole.chunks {
            true => Ok(Some(whole)),
            false => {
                self.open = Some(whole);
                Ok(None)
            }
        }
    }
}

/// A text of a shard, after its header.
struct Text {
    path: PathBuf,
    lines: BufReader<File>,
    line: String,
}

impl Text {
    fn open(path: PathBuf, header: &str) -> Result<Self, OutputError> {
        let failed = |e| OutputError::io("read", &path, None, e);
        let mut lines = BufReader::new(File::open(&path).map_err(failed)?);
        let mut there = vec![0; header.len()];
        match lines.read_exact(&mut there) {
            Err(e) if e.kind() != ErrorKind::UnexpectedEof => return Err(failed(e)),
            _ if there != header.as_bytes() => {
                return Err(malformed(&path, "its first line is another one"));
            }
            _ => {}
        }
        Ok(Self {
            path,
            lines,
            line: String::new(),
        })
    }

    /// Reads the next line, if there is one.
    fn next_line<T>(
        &mut self,
        read: impl FnOnce(Fields<'_>) -> Option<T>,
    ) -> Result<Option<T>, OutputError> {
        self.line.clear();
        let n = self.lines.read_line(&mut self.line);
        if n.map_err(|e| OutputError::io("read", &self.path, None, e))? == 0 {
            return Ok(None);
        }
        let fields = self.line.trim_end_matches('\n').split('\t');
        match read(fields) {
            Some(found) => Ok(Some(found)),
            None => Err(malformed(
                &self.path,
                "a line of it is not what seqstream writes",
            )),
        }
    }
}

/// The rows of an array of a shard, one after the other.
struct Rows {
    path: PathBuf,
    file: BufReader<File>,
    bytes: Vec<u8>,
    /// The current row.
    values: Vec<f32>,
}

impl Rows {
    fn open(path: PathBuf, width: usize) -> Result<Self, OutputError> {
        let failed = |e| OutputError::io("read", &path, None, e);
        let mut file = BufReader::new(File::open(&path).map_err(failed)?);
        let mut header = Vec::new();
        let read = file.by_ref().take(NPY_HEADER).read_to_end(&mut header);
        read.map_err(failed)?;
        Ok(Self {
            path,
            file,
            bytes: vec![0; width * size_of::<f32>()],
            values: vec![0.0; width],
        })
    }

    /// Reads the next row.
    fn next(&mut self) -> Result<&[f32], OutputError> {
        match self.file.read_exact(&mut self.bytes) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                return Err(malformed(&self.path, "it has too few rows"));
            }
            Err(e) => return Err(OutputError::io("read", &self.path, None, e)),
        }
        let (values, _) = self.bytes.as_chunks::<4>();
        for (value, bytes) in self.values.iter_mut().zip(values) {
            *value = f32::from_le_bytes(*bytes);
        }
        Ok(&self.values)
    }
}
