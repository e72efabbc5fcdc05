"""What lies on disk: names, commit records, samples, formats, cards."""
