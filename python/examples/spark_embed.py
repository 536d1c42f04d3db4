"""Embeds a table with Spark: `mapInPandas` makes one model for each partition. Spark needs Java.

    python spark_embed.py
"""

import os
import pathlib
import sys

import seqstream

MODEL = pathlib.Path(__file__).resolve().parents[2] / "examples" / "tiny-esm2"
LETTERS = "LAGVSERTIDPKQNFYMHWC"


def embed(batches):
    """Embed the batches of a partition: pandas DataFrames in and out."""
    model = seqstream.BatchEmbedder(str(MODEL), threads=1)
    for batch in batches:
        yield model(batch)


def main():
    os.environ["PYSPARK_PYTHON"] = sys.executable
    from pyspark.sql import SparkSession

    sequences = [LETTERS[i % 20 :] + LETTERS[: i % 7] for i in range(400)]
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    table = spark.createDataFrame([(f"p{i}", text) for i, text in enumerate(sequences)], "id string, sequence string")
    schema = "id string, sequence string, embedding array<float>"
    found = {row["id"]: row["embedding"] for row in table.repartition(4).mapInPandas(embed, schema).collect()}
    spark.stop()
    rows = seqstream.Embedder(MODEL).embed(sequences)
    assert len(found) == 400
    assert all((rows[i] == found[f"p{i}"]).all() for i in range(400)), "a row differs"
    print(f"{len(found)} rows, all with the bits of one process")


if __name__ == "__main__":
    main()
