"""The spool: the journal of an open shard."""
