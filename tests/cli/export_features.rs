//! `seqstream export` to the formats that are features of the build, read back by the libraries.

use crate::support::cli::*;

#[track_caller]
fn export_ok(place: &Place, out: &str, dest: &str, options: &str) {
    let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
    command.args(["export", out, dest, "-q"]);
    command.args(options.split_whitespace());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[cfg(feature = "export-h5")]
mod h5 {
    use super::*;
    use hdf5_metno::File;
    use hdf5_metno::types::VarLenUnicode;

    #[test]
    fn a_dataset_per_record_has_its_row() {
        let place = Place::new(40);
        place.embed_ok("out", "");
        export_ok(&place, "out", "per-protein.h5", "--to h5");
        let file = File::open(place.path("per-protein.h5")).unwrap();
        let name: VarLenUnicode = file.attr("model_name").unwrap().read_scalar().unwrap();
        assert!(name.starts_with("ESM-2-"), "{name}");
        assert_eq!(file.member_names().unwrap().len(), 40);
        let wanted = rows(&place.path("out"), 2);
        for (i, row) in wanted.chunks(32).enumerate() {
            let dataset = file.dataset(&format!("protein{i}")).unwrap();
            assert_eq!(dataset.shape(), [32]);
            assert_eq!(dataset.read_raw::<f32>().unwrap(), row);
        }
    }

    #[test]
    fn states_are_matrices_and_f16_stays_f16() {
        let place = Place::new(20);
        place.embed_ok("out", "--per-token --layers 1,2 --output-dtype f16");
        export_ok(
            &place,
            "out",
            "per-residue.h5",
            "--to h5 --per-token --layer 1",
        );
        let file = File::open(place.path("per-residue.h5")).unwrap();
        let name: VarLenUnicode = file.attr("model_name").unwrap().read_scalar().unwrap();
        assert!(name.ends_with("-layer1"), "{name}");
        let stored = tree(&place.path("out"));
        let stored = stored
            .iter()
            .filter(|(name, _)| name.ends_with("/layer_1.safetensors"));
        let mut wanted = Vec::new();
        for (_, bytes) in stored {
            let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
            wanted.extend_from_slice(tensors.tensor("states").unwrap().data());
        }
        let mut found = Vec::new();
        for i in 0..20 {
            let dataset = file.dataset(&format!("protein{i}")).unwrap();
            assert_eq!(dataset.shape(), [20 + i * 7919 % 101, 32]);
            let values = dataset.read_raw::<half::f16>().unwrap();
            found.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        }
        assert!(found == wanted);
    }

    #[test]
    fn names_that_would_make_groups_are_refused() {
        let place = Place::new(1);
        std::fs::write(place.path("in.fa"), ">a/b\nMKTAYIAKQR\n>.\nMKTAYIAKQR\n").unwrap();
        place.embed_ok("out", "");
        let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
        command.args(["export", "out", "out.h5", "--to", "h5"]);
        fails(
            command,
            3,
            &["record 1", "\"a/b\"", "separates groups", "--to npz"],
        );
        assert!(!place.path("out.h5").exists());
    }
}

#[cfg(feature = "export-parquet")]
mod parquet_files {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float16Type, Float32Type};
    use arrow_array::{Array, RecordBatch};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    fn read(place: &Place, name: &str) -> (usize, Vec<RecordBatch>) {
        let file = std::fs::File::open(place.path(name)).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let groups = reader.metadata().num_row_groups();
        (
            groups,
            reader.build().unwrap().map(|b| b.unwrap()).collect(),
        )
    }

    #[test]
    fn a_row_per_record_and_a_group_per_shard() {
        let place = Place::new(40);
        place.embed_ok("out", "");
        export_ok(&place, "out", "out.parquet", "--to parquet");
        let (groups, batches) = read(&place, "out.parquet");
        assert_eq!(groups, 3);
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for batch in &batches {
            let ids = batch.column_by_name("id").unwrap().as_string::<i32>();
            names.extend(ids.iter().map(|id| id.unwrap().to_owned()));
            let lists = batch
                .column_by_name("embedding")
                .unwrap()
                .as_fixed_size_list();
            assert_eq!(lists.value_length(), 32);
            values.extend_from_slice(lists.values().as_primitive::<Float32Type>().values());
        }
        assert_eq!(values, rows(&place.path("out"), 2));
        assert_eq!(names[39], "protein39");
        assert_eq!(names.len(), 40);
    }

    #[test]
    fn states_are_lists_of_rows() {
        let place = Place::new(20);
        place.embed_ok("out", "--per-token --pool none --output-dtype f16");
        export_ok(&place, "out", "out.parquet", "--to parquet");
        let (_, batches) = read(&place, "out.parquet");
        let mut lengths = Vec::new();
        for batch in &batches {
            let lists = batch.column_by_name("states").unwrap().as_list::<i32>();
            for record in lists.iter() {
                let record = record.unwrap();
                let record = record.as_fixed_size_list();
                lengths.push(record.len());
                let values = record.values().as_primitive::<Float16Type>();
                assert_eq!(values.len(), 32 * record.len());
            }
        }
        let wanted: Vec<usize> = (0..20).map(|i| 20 + i * 7919 % 101).collect();
        assert_eq!(lengths, wanted);
    }
}
