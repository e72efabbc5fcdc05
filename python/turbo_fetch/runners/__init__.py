"""Where shards run: each runner takes shards and gives back commit records."""
