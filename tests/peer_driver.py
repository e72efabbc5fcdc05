"""Runs img2dataset many times in one process; started with the peer's own Python by :mod:`peer`.

Standard input is a JSON list of tasks: `{"download": options}` or `{"resize": options, "bodies": paths}`. The answer
is a pickle at the path that is the only argument: per task the error as text, or None, or what the resizer returned.

Start-up of the peer costs seconds, and each of its downloads starts three processes more. So shards are done here one
after the other, by the peer's own reader, downloader, resizer and writers, and nothing is logged.
"""

import io
import json
import pickle
import sys
from pathlib import Path


def main():
    from img2dataset import download
    from img2dataset.resizer import Resizer

    # The package has a function of the name of its module.
    peer = sys.modules[download.__module__]
    peer.multiprocessing_distributor = in_this_process
    peer.LoggerProcess = Silent
    answers = []
    for task in json.load(sys.stdin):
        if "download" in task:
            answers.append(outcome(download, task["download"]))
        else:
            resizer = Resizer(**task["resize"])
            answers.append([resizer(io.BytesIO(Path(body).read_bytes())) for body in task["bodies"]])
    Path(sys.argv[1]).write_bytes(pickle.dumps(answers))


def outcome(download, options):
    try:
        download(**options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def in_this_process(_processes, downloader, reader, _subjob_size, _max_shard_retry):
    for shard in reader:
        is_done, _ = downloader(shard)
        if not is_done:
            raise RuntimeError(f"shard {shard[0]} failed")


class Silent:
    def __init__(self, *_):
        self.done_shards = set()

    def start(self):
        pass

    def join(self):
        pass


if __name__ == "__main__":
    main()
