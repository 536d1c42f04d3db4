"""Embeds a table with Dask: each of two workers has an actor that keeps a model.

    python dask_embed.py
"""

import pathlib

import numpy as np
import seqstream
from dask.distributed import Client, LocalCluster

MODEL = pathlib.Path(__file__).resolve().parents[2] / "examples" / "tiny-esm2"
LETTERS = "LAGVSERTIDPKQNFYMHWC"


def main():
    ids = [f"p{i}" for i in range(400)]
    sequences = [LETTERS[i % 20 :] + LETTERS[: i % 7] for i in range(400)]
    # Processes, which are spawned: a model belongs to its process.
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        workers = list(client.scheduler_info()["workers"])
        actors = [
            client.submit(seqstream.BatchEmbedder, str(MODEL), threads=1, actor=True, workers=[worker], pure=False)
            for worker in workers
        ]
        actors = client.gather(actors)
        batches = [
            {"id": np.array(ids[i : i + 50]), "sequence": np.array(sequences[i : i + 50])} for i in range(0, 400, 50)
        ]
        asked = [actors[i % len(actors)].__call__(batch) for i, batch in enumerate(batches)]
        found = {name: row for done in asked for name, row in zip(done.result()["id"], done.result()["embedding"])}
    rows = seqstream.Embedder(MODEL).embed(sequences)
    assert len(workers) == 2 and len(found) == 400
    assert all((found[name] == row).all() for name, row in zip(ids, rows)), "a row differs"
    print(f"{len(found)} rows by {len(workers)} workers, all with the bits of one process")


if __name__ == "__main__":
    main()
