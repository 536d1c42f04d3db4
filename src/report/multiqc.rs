//! What MultiQC shows of a job: its custom content as JSON.

use serde_json::{Map, Value, json};

use super::Report;

impl Report {
    /// Returns the content of `seqstream_mqc.json`: a table with a row for this job. MultiQC joins
    /// the tables of several jobs. `counted` has texts for the names of counts.
    pub fn multiqc(&self, counted: &[(&str, &str)]) -> String {
        let manifest = &self.manifest;
        let mut headers = Map::new();
        let mut row = Map::new();
        let mut add = |name: &str, title: &str, about: &str, format: &str, value: Value| {
            headers.insert(
                name.into(),
                json!({"title": title, "description": about, "format": format, "scale": false}),
            );
            row.insert(name.into(), value);
        };
        let whole = "{:,.0f}";
        add(
            "sequences",
            "Sequences",
            "Sequences with an embedding",
            whole,
            manifest.records.into(),
        );
        add(
            "tokens",
            "Tokens",
            "Tokens computed, special tokens included",
            whole,
            manifest.tokens.into(),
        );
        for (name, n) in manifest.counts.iter().filter(|(_, n)| **n > 0) {
            let about = counted
                .iter()
                .find(|c| c.0 == name)
                .map_or(&**name, |c| c.1);
            let mut title = name.replace('_', " ");
            if let Some(first) = title.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            add(name, &title, about, whole, (*n).into());
        }
        let spent: f64 = self.runs.iter().map(|run| run.end.at).sum();
        let tokens: u64 = self
            .runs
            .iter()
            .fold(0, |n, run| n.saturating_add(run.end.tokens));
        if spent > 0.0 {
            let rate = tokens as f64 / spent;
            add(
                "tokens_per_second",
                "Tokens/s",
                "Over all runs",
                whole,
                rate.into(),
            );
        }
        let model = manifest.job.model.id.as_deref();
        let model = model.unwrap_or(manifest.job.model.config.kind.title());
        add("model", "Model", "Name of the model", "{}", model.into());
        add(
            "device",
            "Device",
            "Kind of device",
            "{}",
            manifest.job.device.as_str().into(),
        );
        let content = json!({
            "id": "seqstream",
            "section_name": "seqstream",
            "section_href": "",
            "description": "embeddings of protein and DNA sequences",
            "plot_type": "table",
            "pconfig": {"id": "seqstream_table", "title": "seqstream: embeddings", "namespace": "seqstream"},
            "headers": headers,
            "data": {self.name.as_str(): row},
        });
        // A map with texts as keys: this cannot fail.
        serde_json::to_string_pretty(&content).unwrap_or_default() + "\n"
    }
}
