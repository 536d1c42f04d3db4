"""Embeds a table with Ray Data: two actors with a model each. Ray does not keep the order, so ids travel with rows.

    python ray_embed.py [--kill-an-actor]

With --kill-an-actor the process of one actor is killed on the way: Ray starts it anew and computes its batch again.
"""

import os
import pathlib
import signal
import sys
import tempfile

import ray
import seqstream

MODEL = pathlib.Path(__file__).resolve().parents[2] / "examples" / "tiny-esm2"
LETTERS = "LAGVSERTIDPKQNFYMHWC"


class Embed(seqstream.BatchEmbedder):
    """Kills its own process once, if a file says so."""

    def __init__(self, kill=None, **options):
        super().__init__(**options)
        self.kill = kill

    def __call__(self, batch):
        rows = super().__call__(batch)
        if self.kill is not None:
            try:
                os.rename(self.kill, self.kill + ".done")
            except FileNotFoundError:
                pass  # another actor was killed
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return rows


def main():
    sequences = [LETTERS[i % 20 :] + LETTERS[: i % 20] * (1 + i % 3) + "ACD"[: i % 4] for i in range(600)]
    table = [{"id": f"p{i}", "sequence": text} for i, text in enumerate(sequences)]
    options = {"model": str(MODEL), "threads": 1}
    kill = None
    if "--kill-an-actor" in sys.argv:
        handle, kill = tempfile.mkstemp()
        os.close(handle)
        options["kill"] = kill
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    data = ray.data.from_items(table).repartition(12).map_batches(
        Embed, fn_constructor_kwargs=options, batch_size=50, compute=ray.data.ActorPoolStrategy(size=2)
    )
    found = {row["id"]: row["embedding"] for row in data.take_all()}
    if kill is not None:
        assert os.path.exists(kill + ".done"), "no actor was killed"
        os.unlink(kill + ".done")
    rows = seqstream.Embedder(MODEL).embed(sequences)
    assert len(found) == len(table), f"{len(table) - len(found)} rows are lost"
    assert all((found[f"p{i}"] == rows[i]).all() for i in range(len(table))), "a row differs"
    print(f"{len(found)} rows, none lost, all with the bits of one process" + ("; one actor was killed" if kill else ""))


if __name__ == "__main__":
    main()
