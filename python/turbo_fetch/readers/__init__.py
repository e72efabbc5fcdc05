"""Dataset readers: finished datasets back into samples, whatever their format and wherever they are.

    dataset = StoredDataset.open("out")               # a folder or any fsspec URL
    for sample in dataset.samples():                  # rows that have a picture, in order, one in memory at a time
        sample.key, sample.image, sample.caption, sample.metadata["url"]

Datasets of turbo-fetch are understood in every format (webdataset, files, parquet, parquet_bytes, lmdb, tfrecord,
dummy), and those of img2dataset in the formats that the two share. Only committed shards are read. `image` is the
bytes of the picture as they are stored; `metadata` has a value for every column of `NNNNN.parquet`. Reading needs
no network but that of the place itself: nothing of the fetch side is imported.

Raises InputError if there is no dataset, DatasetError where its files are damaged or contradict each other, and
MissingExtra if its format or place needs a package that is not installed.
"""

from turbo_fetch.readers.dataset import Sample, StoredDataset, open_dataset

__all__ = ["Sample", "StoredDataset", "open_dataset"]
