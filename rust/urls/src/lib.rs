//! URL lists: parsing, registrable domains, deterministic order and shards.
