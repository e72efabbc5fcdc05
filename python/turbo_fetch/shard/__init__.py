"""One shard, from its rows to its commit."""
