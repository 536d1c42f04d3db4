//! `seqstream virnucpro`, from contigs to tables, with small random models and a random classifier.

use crate::support::cli::*;
use seqstream::architecture::ModelConfig;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

const DNA: usize = 48;
const PROTEIN: usize = 32;

/// Makes a place with a DNA model `dna`, a protein model `model`, a classifier of both and of the
/// protein model alone, and `n` contigs in `in.fna`.
fn place(n: usize) -> Place {
    let place = Place::new(0);
    place.model("dna", ModelConfig::dnabert(2, DNA, 4), 2);
    std::fs::write(place.path("in.fna"), contigs(n)).unwrap();
    classifier(&place.path("both.safetensors"), DNA + PROTEIN);
    classifier(&place.path("protein.safetensors"), PROTEIN);
    place
}

/// A generator of numbers, the same in every run.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn float(&mut self) -> f32 {
        (self.next() as f32 / (1u64 << 31) as f32) - 0.5
    }
}

/// Returns `n` contigs of many lengths, rich in G and C, so that stops are rare. Some hold letters
/// that are no base, and one has no letters.
fn contigs(n: usize) -> String {
    let mut random = Lcg(1);
    let mut text = String::new();
    for i in 0..n {
        let length = match i {
            3 => 0,
            4 => 2,
            _ => 40 + i * 7919 % 1300,
        };
        let mut sequence = String::new();
        for _ in 0..length {
            sequence.push(match random.next() % 40 {
                0..=15 => 'G',
                16..=31 => 'C',
                32..=34 => 'A',
                35..=37 => 'T',
                38 => 'g',
                _ if i % 5 == 0 => 'N',
                _ => 'R',
            });
        }
        writeln!(text, ">contig_{i} some words").unwrap();
        for line in sequence.as_bytes().chunks(70) {
            writeln!(text, "{}", String::from_utf8_lossy(line)).unwrap();
        }
    }
    text
}

const HIDDEN: usize = 8;

/// The tensors of a random classifier.
fn weights(width: usize) -> Vec<(&'static str, Vec<usize>, Vec<f32>)> {
    let mut random = Lcg(7);
    let mut tensor = |name, shape: Vec<usize>, scale: f32, add: f32| {
        let n = shape.iter().product();
        let values = (0..n).map(|_| scale * random.float() + add).collect();
        (name, shape, values)
    };
    vec![
        tensor("hidden_layer.weight", vec![HIDDEN, width], 1.0, 0.0),
        tensor("hidden_layer.bias", vec![HIDDEN], 0.1, 0.0),
        tensor("bn1.weight", vec![HIDDEN], 0.5, 1.0),
        tensor("bn1.bias", vec![HIDDEN], 0.5, 0.0),
        tensor("bn1.running_mean", vec![HIDDEN], 0.5, 0.0),
        tensor("bn1.running_var", vec![HIDDEN], 0.5, 1.0),
        tensor("output_layer.weight", vec![2, HIDDEN], 2.0, 0.0),
        tensor("output_layer.bias", vec![2], 0.2, 0.0),
    ]
}

fn classifier(path: &Path, width: usize) {
    let tensors = weights(width);
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (*name, view.unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The scores of a row in f64.
fn scores_of(row: &[f32]) -> [f64; 2] {
    let tensors = weights(row.len());
    let [w, b, gain, bias, mean, var, out, out_bias] = &tensors[..] else {
        panic!("eight tensors");
    };
    let hidden: Vec<f64> = (0..HIDDEN)
        .map(|h| {
            let weights = &w.2[h * row.len()..(h + 1) * row.len()];
            let dot: f64 = weights
                .iter()
                .zip(row)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum();
            let x = dot + f64::from(b.2[h]);
            let x = (x - f64::from(mean.2[h])) / (f64::from(var.2[h]) + 1e-5).sqrt();
            (x * f64::from(gain.2[h]) + f64::from(bias.2[h])).max(0.0)
        })
        .collect();
    let logits = [0, 1].map(|k| {
        let weights = &out.2[k * HIDDEN..(k + 1) * HIDDEN];
        let dot: f64 = weights
            .iter()
            .zip(&hidden)
            .map(|(a, b)| f64::from(*a) * b)
            .sum();
        dot + f64::from(out_bias.2[k])
    });
    let most = logits[0].max(logits[1]);
    let powers = logits.map(|l| (l - most).exp());
    powers.map(|p| p / (powers[0] + powers[1]))
}

/// Returns `seqstream virnucpro INPUT --out OUT OPTIONS` with the small models.
fn virnucpro_from(place: &Place, input: &str, out: &str, options: &str) -> Command {
    let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
    command.args(["virnucpro", input, "--out", out]);
    let options: Vec<&str> = options.split_whitespace().collect();
    for (name, value) in [
        ("--dna-model", "dna"),
        ("--protein-model", "model"),
        ("--threads", "1"),
        ("--shard-size", "16"),
    ] {
        if !options.contains(&name) {
            command.args([name, value]);
        }
    }
    command.args(options);
    command
}

fn virnucpro(place: &Place, out: &str, options: &str) -> Command {
    virnucpro_from(place, "in.fna", out, options)
}

#[track_caller]
fn ok(mut command: Command) -> serde_json::Value {
    let output = command.arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The rows of an array, all shards in order.
fn array(out: &Path, name: &str, width: usize) -> Vec<Vec<f32>> {
    let files = tree(out).into_iter();
    let files = files.filter(|(path, _)| path.ends_with(&format!("/{name}")));
    let rows = files.flat_map(|(_, bytes)| floats(&bytes[128..]));
    let rows: Vec<f32> = rows.collect();
    rows.chunks_exact(width).map(<[f32]>::to_vec).collect()
}

fn ids(out: &Path) -> Vec<String> {
    let files = tree(out).into_iter();
    let files = files.filter(|(path, _)| path.ends_with("/ids.txt"));
    let text: String = files
        .map(|(_, bytes)| String::from_utf8(bytes).unwrap())
        .collect();
    text.lines().map(str::to_owned).collect()
}

fn read(out: &Path, name: &str) -> String {
    std::fs::read_to_string(out.join(name)).unwrap()
}

/// The rows of both models are those that `embed` gives for the fragments, bit for bit.
#[test]
fn rows_are_those_of_embed_on_the_fragments() {
    let place = place(12);
    let options = "--vectors all --keep-fragments --threads 2";
    let summary = ok(virnucpro(&place, "out", options));
    let out = place.path("out");
    let ids = ids(&out);
    assert_eq!(summary["fragments"], ids.len());
    assert!(ids.len() > 30, "{}", ids.len());
    for (fasta, model, name, width) in [
        ("out/in.fna_identified_nucleotide.fa", "dna", "dna.npy", DNA),
        (
            "out/in.fna_identified_protein.faa",
            "model",
            "protein.npy",
            PROTEIN,
        ),
    ] {
        let fasta = place.path(fasta);
        let mut embed = place.command(env!("CARGO_BIN_EXE_seqstream"));
        embed.arg("embed").arg(&fasta);
        embed.args([
            "--model",
            model,
            "--out",
            name,
            "--clean",
            "off",
            "--threads",
            "1",
        ]);
        ok(embed);
        let expected = rows(&place.path(name), 2);
        let got = array(&out, name, width).concat();
        assert_eq!(got.len(), ids.len() * width);
        assert!(got == expected, "{name} differs from the rows of embed");
        let named: Vec<String> = std::fs::read_to_string(&fasta)
            .unwrap()
            .lines()
            .filter_map(|line| line.strip_prefix('>').map(str::to_owned))
            .collect();
        assert_eq!(named, ids);
    }
    // The merged vectors are those of both models side by side.
    ok(virnucpro(&place, "merged", ""));
    let merged = array(&place.path("merged"), "merged.npy", DNA + PROTEIN);
    let parts = array(&out, "dna.npy", DNA).into_iter();
    let parts = parts.zip(array(&out, "protein.npy", PROTEIN));
    assert!(merged == parts.map(|(a, b)| [a, b].concat()).collect::<Vec<_>>());
    for (features, name, width) in [("dna", "dna.npy", DNA), ("protein", "protein.npy", PROTEIN)] {
        let alone = format!("{features}-alone");
        ok(virnucpro(&place, &alone, &format!("--features {features}")));
        let alone = array(&place.path(&alone), "merged.npy", width);
        assert!(alone == array(&out, name, width), "{features}");
    }
}

/// Neither threads nor budgets change a byte, and one model far behind the other blocks nothing.
#[test]
fn the_bytes_are_the_same_however_it_runs() {
    let place = place(10);
    let all = "--classifier both.safetensors --vectors all --keep-fragments";
    ok(virnucpro(&place, "one", all));
    for (i, options) in [
        "--threads 3",
        "--threads 2 --token-budget 1",
        "--token-budget 1000000",
    ]
    .iter()
    .enumerate()
    {
        let out = format!("again{i}");
        ok(virnucpro(&place, &out, &format!("{all} {options}")));
        assert_same(&place.path("one"), &place.path(&out));
    }
    // The size of the shards changes the shards alone.
    for size in ["1", "7", "100000"] {
        let out = format!("size{size}");
        ok(virnucpro(
            &place,
            &out,
            &format!("{all} --shard-size {size}"),
        ));
        for (name, bytes) in tree(&place.path("one")) {
            if !name.contains("shard-") && !name.ends_with(".json") {
                assert!(bytes == tree(&place.path(&out))[&name], "{size}: {name}");
            }
        }
    }
}

#[test]
fn scores_are_those_of_the_classifier_and_every_contig_is_accounted_for() {
    let place = place(14);
    let summary = ok(virnucpro(
        &place,
        "out",
        "--classifier both.safetensors --vectors merged",
    ));
    let out = place.path("out");
    let (ids, rows) = (ids(&out), array(&out, "merged.npy", DNA + PROTEIN));
    let scores = array(&out, "scores.npy", 2);
    assert_eq!((ids.len(), rows.len()), (scores.len(), scores.len()));
    let table = read(&out, "prediction_results.txt");
    let mut lines = table.lines();
    assert_eq!(
        lines.next(),
        Some("Sequence_ID\tPrediction\tscore1\tscore2")
    );
    for ((id, row), scores) in ids.iter().zip(&rows).zip(&scores) {
        let expected = scores_of(row);
        for (score, expected) in scores.iter().zip(expected) {
            assert!(
                (f64::from(*score) - expected).abs() < 1e-6,
                "{id}: {score} {expected}"
            );
        }
        let fields: Vec<&str> = lines.next().unwrap().split('\t').collect();
        let call = if scores[1] > scores[0] {
            "virus"
        } else {
            "others"
        };
        assert_eq!(fields[..2], [id.as_str(), call]);
        assert_eq!(fields[2].parse::<f32>().unwrap(), scores[0]);
        assert_eq!(fields[3].parse::<f32>().unwrap(), scores[1]);
    }
    assert_eq!(lines.next(), None);
    let contigs = read(&out, "contigs.tsv").lines().count() - 1;
    let without = read(&out, "no_fragment.tsv");
    assert!(without.contains("contig_3\t0\tempty\n"), "{without}");
    assert!(
        without.contains("contig_4\t2\tshorter than a codon\n"),
        "{without}"
    );
    assert_eq!(contigs + without.lines().count() - 1, 14);
    assert_eq!(summary["counts"]["contigs"], 14);
    assert_eq!(summary["counts"]["empty_contigs"], 1);
    assert_eq!(
        summary["verdicts"]["contigs_without_fragment"],
        without.lines().count() - 1
    );
    assert_eq!(read(&out, "fragments.tsv").lines().count() - 1, ids.len());
    // The fork's text has the same lines, and more columns.
    let broad = "--classifier both.safetensors --style broad";
    ok(virnucpro(&place, "broad", broad));
    let text = read(&place.path("broad"), "prediction_results_highestscore.csv");
    assert!(
        text.starts_with("Modified_ID\tIs_Virus\tmax_score_0\tmax_score_1\n"),
        "{text}"
    );
    let original = read(&out, "prediction_results_highestscore.csv");
    assert_eq!(text.lines().count(), original.lines().count());
    // A job without a classifier says which contigs have no fragment, too.
    ok(virnucpro(&place, "vectors", ""));
    assert_eq!(read(&place.path("vectors"), "no_fragment.tsv"), without);
}

/// The index names the letters of the contig's forward strand.
#[test]
fn the_index_points_at_the_letters_of_the_contig() {
    let place = place(8);
    ok(virnucpro(
        &place,
        "out",
        "--features dna --keep-fragments --chunk 300",
    ));
    let input = std::fs::read_to_string(place.path("in.fna")).unwrap();
    let contigs: std::collections::BTreeMap<&str, String> = input
        .split('>')
        .filter(|record| !record.is_empty())
        .map(|record| {
            let (header, sequence) = record.split_once('\n').unwrap();
            let name = header.split(' ').next().unwrap();
            (name, sequence.replace('\n', "").to_uppercase())
        })
        .collect();
    let nucleotides = read(&place.path("out"), "in.fna_identified_nucleotide.fa");
    let mut records = nucleotides.lines();
    let index = read(&place.path("out"), "fragments.tsv");
    let mut reverse = 0;
    for line in index.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [id, contig, chunk, frame, strand, _, _, start, end, _, _] = fields[..] else {
            panic!("{line}");
        };
        assert_eq!(id, format!("{contig}_chunk_{chunk}{frame}"));
        let range = start.parse::<usize>().unwrap()..end.parse::<usize>().unwrap();
        let mut letters = contigs[contig][range].to_owned();
        if strand == "-" {
            reverse += 1;
            let complement = |c: char| match c {
                'A' => 'T',
                'C' => 'G',
                'G' => 'C',
                'T' => 'A',
                other => other,
            };
            letters = letters.chars().rev().map(complement).collect();
        }
        assert_eq!(records.next(), Some(format!(">{id}").as_str()));
        assert_eq!(records.next(), Some(letters.as_str()), "{line}");
    }
    assert_eq!(records.next(), None);
    assert!(reverse > 10, "{reverse}");
}

#[test]
fn shares_merge_to_the_whole() {
    let place = place(12);
    let all = "--classifier both.safetensors --vectors all --keep-fragments --shard-size 4";
    ok(virnucpro(&place, "whole", all));
    for i in 1..=3 {
        ok(virnucpro(
            &place,
            &format!("part{i}"),
            &format!("{all} --share {i}/3"),
        ));
        assert!(!place.path(&format!("part{i}/contigs.tsv")).exists());
    }
    let merge = |sources: &[&str], out: &str| {
        let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
        command.arg("merge").args(sources).args(["--out", out]);
        command
    };
    let merged = merge(&["part3", "part1", "part2"], "merged")
        .output()
        .unwrap();
    assert!(merged.status.success(), "{}", stderr(&merged));
    assert_same(&place.path("whole"), &place.path("merged"));
    fails(merge(&["part1", "part3"], "less"), 6, &["stand in none"]);
    ok(virnucpro(
        &place,
        "other",
        "--classifier both.safetensors --shard-size 4 --share 2/3",
    ));
    fails(
        merge(&["part1", "other", "part3"], "mixed"),
        6,
        &["virnucpro.vectors was"],
    );
}

#[cfg(unix)]
#[test]
fn killed_at_random_moments_and_resumed_is_the_same() {
    let place = place(16);
    let all = "--classifier both.safetensors --vectors all --keep-fragments --shard-size 4";
    let start = std::time::Instant::now();
    let shards = ok(virnucpro(&place, "whole", all))["shards_computed"]
        .as_u64()
        .unwrap();
    let whole = start.elapsed();
    let mut random = Lcg(u64::from(std::process::id()));
    let mut kept = 0;
    for _ in 0..6 {
        let before = written(&place.path("out"));
        let mut child = virnucpro(&place, "out", &format!("{all} --resume -q"))
            .spawn()
            .unwrap();
        std::thread::sleep(whole.mul_f64((random.next() % 1000) as f64 / 2500.0));
        child.kill().unwrap();
        child.wait().unwrap();
        let after = written(&place.path("out"));
        for (name, was) in &before {
            assert_eq!(
                after.get(name),
                Some(was),
                "{name} was finished and then touched"
            );
        }
        kept += u32::from(!before.is_empty());
    }
    let standing = written(&place.path("out"));
    let standing = standing
        .keys()
        .filter(|n| n.ends_with("/shard.json"))
        .count() as u64;
    let summary = ok(virnucpro(&place, "out", &format!("{all} --resume")));
    assert_eq!(
        summary["shards_computed"],
        shards - standing,
        "{kept} runs kept shards"
    );
    assert_same(&place.path("whole"), &place.path("out"));
    // A damaged shard of either model is computed again, and the tables come back.
    for name in ["dna.npy", "protein.npy", "fragments.tsv"] {
        let path = place.path("out/shard-000002").join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        std::fs::remove_file(place.path("out/prediction_results.txt")).unwrap();
        let output = virnucpro(&place, "out", &format!("{all} --resume"))
            .output()
            .unwrap();
        let text = stderr(&output);
        assert!(
            text.contains(&format!("is computed again: {name} was changed")),
            "{text}"
        );
        assert_same(&place.path("whole"), &place.path("out"));
    }
}

#[cfg(unix)]
#[test]
fn sigterm_finishes_the_shard_in_hand_and_says_how_to_resume() {
    let place = place(40);
    let all = "--classifier both.safetensors --vectors all --shard-size 4";
    ok(virnucpro(&place, "whole", all));
    let mut child = virnucpro(&place, "out", all)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&place.path("out/shard-000000"), &mut child);
    signal(&child, "TERM");
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(143), "{text}");
    let left = tree(&place.path("out"));
    assert!(left.keys().all(|n| !n.contains(".partial")), "{text}");
    assert!(!place.path("out/manifest.json").exists());
    let again = text
        .lines()
        .find_map(|l| l.split_once("to go on: "))
        .unwrap()
        .1;
    let output = place.command("sh").args(["-c", again]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_same(&place.path("whole"), &place.path("out"));
}

#[test]
fn another_job_is_not_resumed() {
    let place = place(6);
    ok(virnucpro(&place, "out", "--classifier both.safetensors"));
    fails(
        virnucpro(&place, "out", "--classifier both.safetensors"),
        6,
        &["already holds a job"],
    );
    for (options, says) in [
        ("--chunk 300", "virnucpro.chunk was 500, now 300"),
        (
            "--style broad",
            "virnucpro.tables.style was \"original\", now \"broad\"",
        ),
        (
            "--call-delta 0.4",
            "virnucpro.tables.rule.call_delta was 0.3, now 0.4",
        ),
        (
            "--protein-model model2",
            "virnucpro.protein_model.blake3 was",
        ),
    ] {
        place.model("model2", ModelConfig::esm2(2, PROTEIN, 4), 5);
        let options = format!("--classifier both.safetensors --resume {options}");
        fails(
            virnucpro(&place, "out", &options),
            6,
            &["is another one", says],
        );
    }
    // `embed` does not go on with it either.
    std::fs::write(place.path("in.fa"), ">a\nMKVLAGYW\n").unwrap();
    place.embed_fails("out", "--resume", 6, &["is another one", "virnucpro"]);
}

#[test]
fn an_input_without_fragments_gives_tables_with_headers() {
    let place = place(1);
    for (name, text, contigs, reasons) in [
        ("nothing.fna", "", 0, ""),
        (
            "empty.fna",
            ">a\n>b words\n\n",
            2,
            "a\t0\tempty\nb\t0\tempty\n",
        ),
        (
            "stops.fna",
            ">a\nTAATTAGTTAACTAATTAGTTAACTAATTAG\n>b\nAC\n",
            2,
            "a\t31\tno open frame\nb\t2\tshorter than a codon\n",
        ),
    ] {
        std::fs::write(place.path(name), text).unwrap();
        for (out, options) in [("tables", "--classifier both.safetensors"), ("vectors", "")] {
            let out = format!("{name}.{out}");
            let summary = ok(virnucpro_from(&place, name, &out, options));
            assert_eq!(summary["complete"], true);
            assert_eq!(summary["fragments"], 0);
            if contigs > 0 {
                assert_eq!(summary["counts"]["contigs"], contigs);
            }
            let without = read(&place.path(&out), "no_fragment.tsv");
            assert_eq!(
                without,
                format!("contig\tlength\treason\n{reasons}"),
                "{name}"
            );
        }
        let out = place.path(&format!("{name}.tables"));
        for table in [
            "prediction_results.txt",
            "prediction_results_highestscore.csv",
            "contigs.tsv",
        ] {
            assert_eq!(read(&out, table).lines().count(), 1, "{name}: {table}");
        }
    }
}

#[test]
fn contigs_of_one_name_are_an_error_before_the_models_run_or_are_numbered() {
    let place = place(1);
    let reads: String = ["m1", "m1", "x", "m2", "m2"]
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let sequence = contigs(i + 6).lines().last().unwrap().to_uppercase();
            let quality = "I".repeat(sequence.len());
            format!("@{name} mate\n{sequence}\n+\n{quality}\n")
        })
        .collect();
    std::fs::write(place.path("reads.fq"), &reads).unwrap();
    let says = [
        "record 2 ('m1'), line 5: an earlier contig has the name \"m1\"",
        "--duplicate-ids suffix",
    ];
    fails(virnucpro_from(&place, "reads.fq", "out", ""), 3, &says);
    assert!(!place.path("out").exists());
    ok(virnucpro_from(
        &place,
        "reads.fq",
        "out",
        "--duplicate-ids suffix",
    ));
    let index = read(&place.path("out"), "fragments.tsv");
    let mut names: Vec<&str> = index
        .lines()
        .skip(1)
        .map(|l| l.split('\t').nth(1).unwrap())
        .collect();
    names.dedup();
    assert_eq!(names, ["m1/1", "m1/2", "x", "m2/1", "m2/2"]);
    // A resumed job gives the same names.
    std::fs::remove_dir_all(place.path("out/shard-000000")).unwrap();
    std::fs::remove_file(place.path("out/manifest.json")).unwrap();
    ok(virnucpro_from(
        &place,
        "reads.fq",
        "out",
        "--duplicate-ids suffix --resume",
    ));
    assert_eq!(read(&place.path("out"), "fragments.tsv"), index);
    std::fs::write(place.path("taken.fa"), ">a\nACG\n>a\nACG\n>a/2\nACG\n").unwrap();
    fails(
        virnucpro_from(&place, "taken.fa", "taken", "--duplicate-ids suffix"),
        2,
        &["\"a/2\"", "has that name already"],
    );
    // A pipe cannot be read twice.
    let mut command = virnucpro_from(&place, "-", "pipe", "");
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(reads.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    fails(
        virnucpro_from(&place, "-", "pipe2", "--duplicate-ids suffix"),
        2,
        &["a pipe can be read only once"],
    );
}

#[test]
fn a_pipe_is_an_input_too() {
    let place = place(10);
    let options = "--classifier both.safetensors";
    ok(virnucpro(&place, "file", options));
    let input = std::fs::read(place.path("in.fna")).unwrap();
    let mut command = virnucpro_from(&place, "-", "pipe", &format!("{options} -q"));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    assert!(child.wait().unwrap().success());
    let (file, pipe) = (tree(&place.path("file")), tree(&place.path("pipe")));
    for (name, bytes) in &file {
        if !["job.json", "manifest.json"].contains(&name.as_str()) {
            assert!(&pipe[name] == bytes, "{name}");
        }
    }
}

#[test]
fn what_does_not_fit_together_is_refused_before_the_job() {
    let place = place(2);
    let refused = |options: &str, code, says: &[&str]| {
        fails(virnucpro(&place, "out", options), code, says);
        assert!(!place.path("out").exists(), "{options}");
    };
    refused(
        "--classifier protein.safetensors",
        4,
        &["protein.safetensors", "32 values", "80 values"],
    );
    ok(virnucpro(
        &place,
        "protein",
        "--classifier protein.safetensors --features protein",
    ));
    refused(
        "--dna-model model",
        2,
        &["--dna-model: model is ESM-2, and DNABERT is needed"],
    );
    refused(
        "--protein-model dna",
        2,
        &["--protein-model: dna is DNABERT, and ESM-2 is needed"],
    );
    refused("--vectors none", 2, &["leaves nothing to write"]);
    refused("--chunk 2", 2, &["shorter than a codon"]);
    refused("--chunk 3075", 2, &["1024 residues", "3074"]);
    refused("--format virnucpro --vectors merged", 2, &["must be all"]);
    refused("--dtype f16", 2, &["--dtype"]);
    refused("--share 3/2", 2, &["--share"]);
}

#[test]
fn bad_records_are_skipped_and_listed() {
    let place = place(8);
    let mut text = std::fs::read_to_string(place.path("in.fna")).unwrap();
    text.push_str(">bad\nACG>T\n>good\nGCGGCGGCGGCGGCG\n");
    std::fs::write(place.path("in.fna"), text).unwrap();
    fails(
        virnucpro(&place, "out", ""),
        3,
        &["'>' stands inside", "--bad-records skip"],
    );
    let options = "--bad-records skip --classifier both.safetensors";
    let summary = ok(virnucpro(&place, "out", options));
    assert_eq!(summary["counts"]["rejected"], 1);
    assert!(read(&place.path("out"), "rejected.tsv").contains("bad\tin.fna\t9\t"));
    assert!(read(&place.path("out"), "contigs.tsv").contains("\ngood\t"));
    let again = ok(virnucpro(&place, "out", &format!("{options} --resume")));
    assert_eq!(again["shards_computed"], 0);
}

/// The vectors stand in the original's files as they stand in the shards.
#[test]
fn the_files_of_the_original_hold_the_same_vectors() {
    let place = place(8);
    ok(virnucpro(
        &place,
        "out",
        "--format virnucpro --classifier both.safetensors",
    ));
    let out = place.path("out");
    let bytes_of = |rows: Vec<Vec<f32>>| -> Vec<u8> {
        rows.concat().iter().flat_map(|v| v.to_le_bytes()).collect()
    };
    let dna = array(&out, "dna.npy", DNA);
    let merged = dna.iter().zip(array(&out, "protein.npy", PROTEIN));
    let merged: Vec<Vec<f32>> = merged.map(|(a, b)| [a.clone(), b].concat()).collect();
    let file = std::fs::read(out.join("in.fna_merged/output_1_merged.pt")).unwrap();
    let wanted = bytes_of(merged);
    assert!(memchr::memmem::find(&file, &wanted).is_some());
    for name in [
        "in.fna_nucleotide/output_1_DNABERT_S.pt",
        "in.fna_protein/output_1_ESM.pt",
    ] {
        assert!(out.join(name).exists(), "{name}");
    }
}

/// Fragments that repeat others are computed like all others, and counted.
#[test]
fn repeats_are_counted() {
    let place = place(1);
    let sequence = "GCG".repeat(40);
    let text = format!(">a\n{sequence}\n>b\n{sequence}\n");
    std::fs::write(place.path("in.fna"), text).unwrap();
    let summary = ok(virnucpro(&place, "out", ""));
    let fragments = summary["fragments"].as_u64().unwrap();
    let repeats = summary["counts"]["repeated_fragments"].as_u64().unwrap();
    assert!(repeats >= fragments / 2, "{repeats} of {fragments}");
}

#[test]
fn rna_is_warned_of_and_dna_is_not() {
    let place = place(2);
    let dna = std::fs::read_to_string(place.path("in.fna")).unwrap();
    let rna: String = dna
        .lines()
        .map(|line| match line.starts_with('>') {
            true => format!("{line}\n"),
            false => format!("{}\n", line.replace('T', "U")),
        })
        .collect();
    std::fs::write(place.path("rna.fna"), rna).unwrap();
    for (input, warned) in [("in.fna", false), ("rna.fna", true)] {
        let out = format!("{input}.out");
        let output = virnucpro_from(&place, input, &out, "").output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let said = stderr(&output).contains("more than one codon in ten was dropped");
        assert_eq!(said, warned, "{}", stderr(&output));
    }
}

#[test]
fn nothing_is_exported_or_reported_of_fragments() {
    let place = place(2);
    ok(virnucpro(&place, "out", ""));
    for command in [
        &["export", "out", "x.npz", "--to", "npz"][..],
        &["report", "out"],
    ] {
        let mut run = place.command(env!("CARGO_BIN_EXE_seqstream"));
        let output = run.args(command).output().unwrap();
        assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("is an output of VirNucPro"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn variables_stand_for_options_that_are_not_typed() {
    let place = place(1);
    let mut command = virnucpro(&place, "out", "");
    let output = command.env("SEQSTREAM_DEVICE", "toaster").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("toaster"), "{}", stderr(&output));
}
