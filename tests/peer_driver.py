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
from functools import partial
from pathlib import Path
from types import ModuleType


def main():
    from img2dataset import download
    from img2dataset.resizer import Resizer

    # The package has a function of the name of its module.
    peer = sys.modules[download.__module__]
    peer.multiprocessing_distributor = in_this_process
    peer.LoggerProcess = Silent
    stand_in_for_tensorflow()
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


def stand_in_for_tensorflow():
    """Let the peer's TFRecord writer do its work without TensorFlow, which is half a gigabyte.

    What it would hand to TensorFlow is kept as it is: a file is the pickled list of its examples, each a dictionary of
    features, and a feature the kind of its list with its values.
    """
    writing, training = ModuleType("tf_record"), ModuleType("training")
    writing.TFRecordWriter = Records
    for kind, name in (("bytes", "BytesList"), ("int64", "Int64List"), ("float", "FloatList")):
        setattr(training, name, partial(lambda kind, value: (kind, list(value)), kind))
    training.Feature = lambda **lists: next(iter(lists.values()))
    training.Features = lambda feature: dict(feature)
    training.Example = Example
    sys.modules["tensorflow_io"] = ModuleType("tensorflow_io")
    for name in ("tensorflow", "tensorflow.python", "tensorflow.python.lib", "tensorflow.python.lib.io"):
        sys.modules[name] = ModuleType(name)
    sys.modules["tensorflow.python.training"] = ModuleType("tensorflow.python.training")
    sys.modules["tensorflow.python.lib.io.tf_record"] = writing
    sys.modules["tensorflow.python.training.training"] = training


class Example:
    def __init__(self, features):
        self.features = features

    def SerializeToString(self):  # noqa: N802 - TensorFlow's name
        return self.features


class Records:
    def __init__(self, path):
        self.path = path
        self.examples = []

    def write(self, example):
        self.examples.append(example)

    def close(self):
        Path(self.path).write_bytes(pickle.dumps(self.examples))


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
