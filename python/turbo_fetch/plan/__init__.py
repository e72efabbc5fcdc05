"""From a list to shards: which files, how they are read, where they are cut, and what their URLs mean."""
