"""Benchmarks of turbo-fetch: a corpus of real photographs, real origins, the peer, a script per figure."""
