"""The stage `[train]`: `launch.py` says where it runs, `train.py` is the story of a run."""
